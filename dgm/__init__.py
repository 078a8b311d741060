"""Supporting modules of the notebooks: data, device, samplers, metrics, runs, figures."""
