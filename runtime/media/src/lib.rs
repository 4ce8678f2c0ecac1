//! Pictures and video outside the model: GStreamer streams and files, PNG strips and plots.
