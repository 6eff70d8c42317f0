"""An adapter as a value, as a folder, in a store and in a batch."""
