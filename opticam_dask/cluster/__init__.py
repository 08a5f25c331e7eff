"""Where blocks of frames are worked on: this process, workers here, or jobs of a batch system."""
