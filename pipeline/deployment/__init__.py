"""Using the models of a study: portable model folders, predictions of new scans, and bundles."""
