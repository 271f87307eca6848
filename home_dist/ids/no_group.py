"""The number of rows without a key, where numbers stand for keys (`keys.group_numbers`)."""

NO_GROUP = -(2**63)
