"""Training that empties whole neurons: regularizers of coupled channels, as callbacks for `fit`."""
