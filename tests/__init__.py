"""The tests. README.md says where each kind goes."""
