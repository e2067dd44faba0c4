"""Reading DICOM cines: the reader, what a viewer shows, a header before it is trusted, and JPEG inside."""
