"""What runs and sweeps store on disk: files that are whole or absent, with digests."""
