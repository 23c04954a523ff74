"""The workspace on disk: units of work, their done-markers, atomic writes and tensors."""
