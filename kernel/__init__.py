"""Types every hand-written part of Tidebook shares. Standard library only, no I/O."""
