"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from forerun.whole_file import whole_file, write_whole


def test_a_new_file_and_the_next_one_of_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"one")
    umask = os.umask(0o077)
    os.umask(umask)
    assert path.read_bytes() == b"one" and path.stat().st_mode & 0o777 == 0o666 & ~umask
    path.chmod(0o640)
    write_whole(path, b"two")
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"one")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["a"]
    for wrong in (tmp_path / "none" / "a", path / "a", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(OSError, match=r"\[Errno"):
            write_whole(wrong, b"two")
    assert os.listdir(tmp_path) == ["a"]


def test_no_more_room(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from forerun.whole_file import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_whole(Path(sys.argv[1]), bytes(100_000))\n"
        "except OSError as error: print(error.strerror)"
    )
    path = tmp_path / "a"
    write_whole(path, b"one")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["a"]


def test_links_are_followed_and_pipes_are_written_to(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "a", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"one")
    link.symlink_to("a")
    write_whole(link, b"two")
    assert link.is_symlink() and target.read_bytes() == b"two"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"three")
    reader.join()
    assert read == [b"three"]
    with pytest.raises(OSError, match="No space"):
        write_whole(Path("/dev/full"), b"four")
    assert Path("/dev/full").is_char_device()
