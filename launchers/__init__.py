"""How a run is started on one machine, on Slurm and on Kubernetes. Not installed with the library."""
