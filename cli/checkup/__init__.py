"""What `bushel doctor` looks at: each file knows one thing that can be wrong. Nothing here changes anything."""
