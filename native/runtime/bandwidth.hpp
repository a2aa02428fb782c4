// How fast memory can be read: the limit that decoding is measured against.
#pragma once

namespace forerun {

// Bytes per second of the best of five passes over `megabytes` of memory, four interleaved streams per thread.
// Throws std::invalid_argument for sizes outside 1..256 threads or 16..4096 megabytes.
double read_bandwidth(int threads, int megabytes);

}  // namespace forerun
