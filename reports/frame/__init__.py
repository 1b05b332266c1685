"""Every number that the report shows: pure functions, frame in, frame or number out."""
