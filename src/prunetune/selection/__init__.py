"""Mathematics that several scorers and samplers share."""
