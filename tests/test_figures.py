"""Pictures: orientation, gray levels, aspect, bounds, read back from PNG and GIF files."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from adjoint.run.figures import Panel, convergence_png, density_png, gray_levels
from adjoint.run.film import FRAME_SIZE, MOST_FRAMES, Film


def read(content):
    return Image.open(io.BytesIO(content))


def one_solid_cell(i, j, shape=(6, 2)):
    density = np.zeros(shape)
    density[i, j] = 1.0
    return density


@pytest.mark.parametrize(
    ("cell", "corner"), [((0, 0), (0, -1)), ((0, 1), (0, 0)), ((5, 0), (-1, -1)), ((5, 1), (-1, 0))]
)
def test_density_is_black_where_solid_with_x_to_the_right_and_y_up(cell, corner):
    pixels = np.asarray(read(density_png(one_solid_cell(*cell))))
    column, row = corner
    assert pixels[row, column] == 0
    # One cell of twelve is solid, the others are void.
    assert np.count_nonzero(pixels == 0) * 12 == pixels.size
    assert np.count_nonzero(pixels == 255) * 12 == pixels.size * 11


def test_density_is_linear_in_the_gray_level_and_cut_off_outside():
    assert gray_levels(np.array([[-0.5, 0.0, 0.2, 1.0, 1.5]])).ravel().tolist() == [
        0,
        0,
        204,
        255,
        255,
    ]


@pytest.mark.parametrize(
    ("cells", "pixels"),
    [
        ((60, 20), (1200, 400)),
        ((7, 3), (1197, 513)),
        ((2400, 800), (1200, 400)),
        ((10, 600), (20, 1200)),
        ((1, 1), (1200, 1200)),
    ],
)
def test_density_keeps_the_aspect_within_the_size(cells, pixels):
    assert read(density_png(np.full(cells, 0.5))).size == pixels


def test_many_cells_are_averaged():
    checkerboard = np.indices((2400, 800)).sum(axis=0) % 2
    assert set(np.unique(np.asarray(read(density_png(checkerboard))))) <= {127, 128}


@pytest.mark.parametrize(
    "bad", [np.ones(3), np.ones((2, 2, 2)), np.ones((0, 3)), np.array([[np.nan]])]
)
def test_a_field_that_is_no_density_is_refused(bad):
    with pytest.raises(ValueError, match="density picture needs"):
        density_png(bad)


def test_convergence_has_a_panel_for_each_quantity():
    iterations = np.arange(1.0, 41.0)
    panels = [
        Panel("compliance", 200 + 800 / iterations, "log"),
        Panel("change", 0.2**iterations, "log", 0.01, "tolerance"),
    ]
    one = read(convergence_png(iterations, panels[:1], "one", dots_per_inch=50))
    two = read(convergence_png(iterations, panels, "two", dots_per_inch=50))
    assert (one.width, two.width) == (375, 375)
    assert two.height - one.height == 120
    # The dashed line of the tolerance is the only thing in color.
    red = [
        np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=-1).max() > 100
        for image in (one, two)
    ]
    assert red == [False, True]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [1.0, 0.0, 1e-3], [np.nan, 1.0]])
def test_convergence_of_awkward_values_draws_without_a_warning(values):
    panel = Panel("change", np.array(values), "log", 0.0, "tolerance")
    convergence_png(np.arange(len(values)) + 1.0, [panel], "t", dots_per_inch=40)


def test_convergence_refuses_a_panel_of_another_length():
    with pytest.raises(ValueError, match="'change' has 2 values for 3 iterations"):
        convergence_png(np.arange(3.0), [Panel("change", np.ones(2))], "t")


def test_drawing_leaves_the_global_state_of_matplotlib_alone():
    before = "matplotlib.pyplot" in sys.modules
    convergence_png(np.arange(3.0), [Panel("change", np.ones(3))], "t", dots_per_inch=40)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_short_film_shows_every_iteration_and_stays_on_the_last():
    film = Film()
    for k in range(4):
        film.add(one_solid_cell(k, 0), f"iteration {k}")
    gif = read(film.gif())
    assert (gif.n_frames, gif.info["loop"]) == (4, 0)
    durations = []
    for k in range(4):
        gif.seek(k)
        durations.append(gif.info["duration"])
        levels = np.asarray(gif.convert("L"))[:200]
        solid = np.flatnonzero(levels[-1] < 128)
        assert (solid[0], solid[-1]) == (100 * k, 100 * k + 99)
        assert levels[0].min() > 200
    assert durations[3] > 2 * durations[0] == 2 * durations[1]


@pytest.mark.parametrize(
    "iterations", [1, MOST_FRAMES - 1, MOST_FRAMES, MOST_FRAMES + 1, 1000, 5000]
)
def test_a_long_film_is_thinned_evenly_and_ends_with_the_latest(iterations):
    film = Film()
    for k in range(iterations):
        film.add(np.full((3, 1), 0.5), str(k))
    numbers = [int(caption) for caption in film.captions]
    assert min(iterations, MOST_FRAMES // 2) <= len(film) <= MOST_FRAMES
    assert (numbers[0], numbers[-1]) == (0, iterations - 1)
    assert len(set(np.diff(numbers[:-1]))) <= 1


def test_the_captions_differ_so_every_kept_frame_is_in_the_file():
    film = Film()
    for k in range(40):
        film.add(np.full((3, 1), 0.5), f"iteration {k}")
    gif = read(film.gif())
    assert gif.n_frames == 40
    assert gif.width == FRAME_SIZE


@pytest.mark.parametrize("stopped", [0, 1, 3, MOST_FRAMES - 1, MOST_FRAMES, 2 * MOST_FRAMES + 3])
def test_a_film_that_was_saved_goes_on_as_the_same_film(stopped):
    whole, first, second = Film(), Film(), Film()
    for k in range(2 * MOST_FRAMES + 20):
        if k == stopped:
            assert second.restore([*first.arrays(), np.zeros(2)]) == len(first) + 1
        for film in (whole, first if k < stopped else second):
            film.add(np.full((1, 3), k / 1000), str(k))
    assert second.captions == whole.captions
    assert all(np.array_equal(a, b) for a, b in zip(second.arrays(), whole.arrays(), strict=True))


def test_frames_of_many_cells_are_kept_small():
    film = Film()
    film.add(np.full((3 * FRAME_SIZE, 2), 0.5), "")
    assert film.arrays()[1].shape == (1, FRAME_SIZE)


def test_a_film_without_frames_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Film().gif()
