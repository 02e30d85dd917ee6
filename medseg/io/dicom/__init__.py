"""DICOM: folders in, volumes and results out. pydicom and highdicom are used here alone."""
