"""Really smaller models: dead neurons removed, outputs unchanged."""
