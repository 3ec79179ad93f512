"""Tables of what prunetune works with."""
