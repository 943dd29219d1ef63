"""What is kept on disk: the content-addressed cache, its remote side, atomic writes. Imports core."""
