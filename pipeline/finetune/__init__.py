"""Fine-tuning by the BiT-HyperRule on the job's own inputs: `python -m pipeline.finetune`."""
