"""From a broker's bytes to events: sockets read in large pieces, and a decoder that refuses what breaks a rule."""
