"""How fast a configuration trains here, and what bounds it: `home-dist bench`."""
