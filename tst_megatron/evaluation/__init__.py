"""What a model scores: tasks, and bits a byte of text."""
