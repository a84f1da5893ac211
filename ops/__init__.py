"""Running Tidebook: the command line, the supervisor, embedded servers and checks."""
