//! Serves a film or a generated scene over RTSP on loopback.
