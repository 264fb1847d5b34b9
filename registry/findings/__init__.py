"""What is known of a version's files, what the rules said, and how long that holds."""
