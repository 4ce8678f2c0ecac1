//! Writes pictures as an H.264 film.
