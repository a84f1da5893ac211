"""What a user, a session and an API key are. No I/O."""
