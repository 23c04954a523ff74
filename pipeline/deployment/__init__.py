"""From a study to use: the portable model folder and predictions of new scans."""
