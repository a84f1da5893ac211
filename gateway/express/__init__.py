"""Orders of clients that send the same head again and again, without the HTTP library."""
