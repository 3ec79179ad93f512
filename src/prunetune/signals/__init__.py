"""What a scorer or sampler may ask about images."""
