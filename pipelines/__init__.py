"""One short script per raw data set, over home_dist/prepare."""
