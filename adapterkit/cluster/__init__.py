"""Ray clusters, on which work for several processes or machines is done."""
