"""All side effects of the library: folders, histories, progress, pictures, VTK files, reports."""
