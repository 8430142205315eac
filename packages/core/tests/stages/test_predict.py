"""Each image of a prediction has a picture of its own."""

from __future__ import annotations

from stdet.stages.predict import picture_names


def test_a_picture_is_called_as_its_image_without_the_suffix() -> None:
    assert picture_names(["b.jpg", "c.d.png"]) == ["b_predict.jpg", "c.d_predict.jpg"]


def test_images_of_one_name_and_different_suffixes_have_pictures_of_their_own() -> None:
    names = ["a.bmp", "a.jpg", "a.png", "b.png", "a.jpg.png"]
    found = picture_names(names)
    assert found[0] == "a.bmp_predict.jpg"
    assert found[3:] == ["b_predict.jpg", "a.jpg_predict.jpg"]
    assert len(set(found)) == len(names)
