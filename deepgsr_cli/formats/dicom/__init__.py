"""CT in DICOM: series, slices, derived series, segmentations and projections."""
