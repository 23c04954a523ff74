"""The report of a study: one HTML page, made from the files of the workspace alone."""
