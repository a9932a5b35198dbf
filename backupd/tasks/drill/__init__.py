"""The restore drill: restore the newest copy in isolation, verify it, and check the app on it."""
