"""What an adapter is on disk: configuration, tensor table, key names, patterns. See README.md of this folder."""
