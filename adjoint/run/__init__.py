"""All side effects of the library: output folders, histories, progress, pictures, VTK files and
reports.
"""
