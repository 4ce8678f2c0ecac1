//! nextclipd: predicts live cameras, headless.
