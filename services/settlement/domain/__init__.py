"""What the log means in money: pure, integers only, no I/O."""
