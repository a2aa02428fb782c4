"""Equal servers behind one front: processes that share a machine, a router that knows who has which prefix."""
