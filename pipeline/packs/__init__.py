"""A source pack: what it holds, and how it is read without trust."""
