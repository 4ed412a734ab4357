"""Who hears what: the bus port with its implementations, and the hub that delivers to this node's connections."""
