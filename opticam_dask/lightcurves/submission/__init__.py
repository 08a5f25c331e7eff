"""Files for archives: light curves and measurements in the formats that they take, checked before they are written."""
