"""`python -m pipeline.look OUTPUT`: one HTML page that shows people what a job has made."""
