"""Topic and style: does `cluster` group by how a text is written, if asked to, where embeddings group by topic?

    pip install numpy scipy pyarrow scikit-learn
    python tests/quality/topic_style.py --saequel PATH/TO/saequel [--sae DIR ...]

The corpus is made here: six topics of fifteen facts in four styles (a list of points, a story told in the first
person, a dialogue of question and answer, a formal notice), every topic as often in every style. A style has eight
frames that share few words; the first four are *known* (whoever tunes `cluster` may look at them), the last four are
*held out*, and the two are grouped apart.

Adjusted Rand index (ARI) of four groups with the styles and of six groups with the topics; `about` names the styles by
key phrases, or asks for the style in general, without naming them. Mean of three seeds. Controls: `cluster` on the
embedding, and k-means of words and pairs of words. Methods of `cluster` stand there beside its default.

Intervals are 95 %, documents drawn anew with the groups as they are.
"""

import argparse
import random

import numpy as np
import pyarrow as pa

import clustering
from measures import Figures, ari, draws, print_table, shown
from workbench import ALL, DENSE, WORDS, Workbench, add_arguments, count_words, quoted

ABOUT = {
    "styles named": "bullet points, first-person story, question and answer, formal notice",
    "style in general": "format of the text, tone of the text, way of writing",
}
METHODS = ("default", "kmeans", "jaccard-spectral")
SEEDS = (0, 1, 2)
DOCS_A_CELL = 20  # documents of a topic in a style, in each half of the frames

TOPICS = {
    "bees": [
        "a hive needs a clean source of water", "the queen lays most of her eggs in early summer",
        "drones are driven out before the cold sets in", "wax moths destroy weak colonies",
        "smoke calms the bees during an inspection", "clover honey sets faster than acacia honey",
        "a swarm can be caught in an empty wooden box", "foragers fly up to three kilometres for nectar",
        "mites are the worst enemy of the brood", "sugar syrup keeps a starving colony alive",
        "new frames have to be wired and waxed", "the entrance is narrowed when wasps are around",
        "a strong colony gives twenty jars of honey", "pollen on the legs means that the brood is growing",
        "the hive should face the morning sun"],
    "trains": [
        "the night express stops at the border for an hour", "the old signal box is being rebuilt",
        "freight wagons are shunted behind the station", "the narrow-gauge line climbs to the pass",
        "a broken rail delays the whole timetable", "the conductor checks tickets after every stop",
        "steam engines take on water at the junction", "the overhead line carries fifteen thousand volts",
        "commuters change at the central platform", "sleeper cars are coupled on at midnight",
        "leaves on the track make the wheels slip", "the viaduct has forty brick arches",
        "the level crossing closes twice an hour", "the driver sounds the horn before the tunnel",
        "the last railcar leaves the depot at ten"],
    "bread": [
        "rye dough needs a sour starter", "the loaf rests in a floured basket overnight",
        "steam in the oven gives a crisp crust", "salt slows down the yeast",
        "a wet dough makes an open crumb", "whole grain flour soaks up more water",
        "kneading takes ten minutes by hand", "the dough has to double before it is shaped",
        "a baking stone stores the heat", "rolls are glazed with egg or milk",
        "the crust sings while it cools", "old bread turns into dumplings and crumbs",
        "a sharp blade scores the top of the loaf", "the starter is fed with flour every evening",
        "seeds are roasted before they go into the dough"],
    "sailing": [
        "the mainsail is reefed in strong wind", "the keel keeps the boat upright",
        "the anchor drags on a sandy bottom", "the tide turns shortly after noon",
        "a bowline never slips under load", "the rudder is checked before every trip",
        "fog hides the buoys at the harbour mouth", "the boom swings across during a jibe",
        "ropes are coiled clockwise on deck", "the hull is scraped clean of barnacles each spring",
        "a yacht under sail gives way on port tack", "the compass is disturbed by steel tools",
        "the crew leans out to balance the dinghy", "storm jibs are stowed near the bow",
        "the chart shows rocks west of the lighthouse"],
    "teeth": [
        "plaque hardens into tartar within days", "a soft brush protects the gums",
        "wisdom teeth often grow in sideways", "fluoride makes enamel harder",
        "a crown covers a cracked molar", "flossing reaches the gaps between the teeth",
        "acidic drinks wear the enamel down", "braces are tightened every few weeks",
        "a root canal saves an infected tooth", "milk teeth fall out from the age of six",
        "the dentist numbs the jaw with an injection", "bleeding gums are an early sign of disease",
        "fillings last for about ten years", "grinding at night calls for a plastic splint",
        "an x-ray shows decay between two molars"],
    "stars": [
        "a red giant swells before it dies", "the comet returns every seventy years",
        "jupiter has four large moons", "a telescope gathers faint light with its mirror",
        "the milky way is a spiral galaxy", "neutron stars spin many times a second",
        "the eclipse darkens the sky for two minutes", "meteors burn up high in the atmosphere",
        "saturn's rings are made of ice", "light from the nearest star travels four years",
        "sunspots come and go in a cycle of eleven years", "mars has the tallest volcano of all planets",
        "a nebula is a cloud of gas and dust", "black holes bend the light behind them",
        "astronomers measure distance by parallax"],
}
STYLES = {
    "list": [
        "Key points:\n- {a}\n- {b}\n- {c}", "Summary\n* {a}\n* {b}\n* {c}",
        "What to know:\n1. {a}\n2. {b}\n3. {c}", "Notes:\n\u2022 {a};\n\u2022 {b};\n\u2022 {c}",
        "Checklist\n[ ] {a}\n[ ] {b}\n[ ] {c}", "In brief:\n(a) {a}\n(b) {b}\n(c) {c}",
        "Overview\n\n1) {a}\n\n2) {b}\n\n3) {c}", "Three things:\n-- {a}\n-- {b}\n-- {c}"],
    "story": [
        "When I was young, my grandfather told me that {a}. I laughed at him then. Years later I saw with my own eyes that "
        "{b}, and I cried a little.",
        "Last summer my sister dragged me along, and we learned that {a}. I was so tired that I barely noticed how {b}.",
        "I never wanted to believe that {a}. But one evening, while I was sitting with my friends, somebody mentioned that "
        "{b}, and I felt foolish.",
        "My first day was a disaster: nobody had warned me that {a}. I went home angry, until my wife explained to me that "
        "{b}.",
        "I remember the morning well. We woke up late, had coffee, and then Uncle Tom shouted that {a}! None of us knew that "
        "{b}.",
        "As a student I shared a room with a man who kept saying that {a}. I missed him when he left, because who else "
        "would remind me that {b}?",
        "Funny how life goes: I moved here for love, stayed for work, and found out that {a}. These days I smile when "
        "I recall that {b}.",
        "It rained the whole week of our holiday, so Dad sat us down and explained why {a}. I yawned, yet I have known ever "
        "since that {b}."],
    "dialogue": [
        "Q: Is it true that {a}?\nA: Yes, it is.\nQ: And would you say that {b}?\nA: Certainly.",
        "\"Did you know that {a}?\" - \"No, really?\" - \"Oh yes. And what about this: {b}?\" - \"That surprises me.\"",
        "Interviewer: Why do people say that {a}?\nGuest: Because they have seen it.\nInterviewer: Does it follow that {b}?\n"
        "Guest: It does.",
        "Student: Can you tell me whether {a}?\nTeacher: I can. It is so.\nStudent: Then is it also the case that {b}?\n"
        "Teacher: Right.",
        "Caller: Hello, I heard that {a}. Correct?\nHost: Correct!\nCaller: So how come {b}?\nHost: Good question.",
        "Anna: Hang on, {a}?\nBen: Sure. Why, didn't you hear?\nAnna: Nope. And {b}?\nBen: Yep, that too.",
        "FAQ. Do you mean that {a}? We do. Should I expect that {b}? You should.",
        "Lawyer: Do you agree that {a}?\nWitness: I agree.\nLawyer: Were you aware that {b}?\nWitness: I was."],
    "notice": [
        "Notice is hereby given that {a}. All persons concerned are requested to observe that {b}. By order of the board.",
        "To whom it may concern: be advised that {a}. Pursuant to section 4 of the regulations, {b}. The administration.",
        "The committee has resolved to place on record that {a}. Members are further informed that, as of 1 June, {b}.",
        "Official announcement. The department wishes to point out that {a}. Failure to take into account that {b} may result "
        "in a penalty.",
        "Dear residents, kindly note that {a}. In accordance with the bylaws it must be assumed that {b}. Yours faithfully, "
        "the secretary.",
        "The undersigned authority declares herewith that {a}. It is moreover established that {b}. This decree takes effect "
        "immediately.",
        "Public information: visitors shall bear in mind that {a}. The management accepts no liability in the event that {b}.",
        "Memorandum. Subject: compliance. Staff are reminded that {a}, and are instructed to report wherever {b}. Approved by "
        "the director."],
}


def make_table(frames, rng):
    """Every topic as often in every style, facts and frames drawn evenly."""
    rows = []
    for topic, facts in TOPICS.items():
        for style, own in STYLES.items():
            kept = own[frames]
            for at in range(DOCS_A_CELL):
                a, b, c = rng.sample(facts, 3)
                rows.append({"text": kept[at % len(kept)].format(a=a, b=b, c=c), "topic": topic, "style": style})
    rng.shuffle(rows)
    return pa.Table.from_pylist([{"doc_id": f"text-{at:04d}", **row} for at, row in enumerate(rows)])


def grouped(bench, corpus, options, k):
    """Groups of `cluster` with each seed; None if the program does not know the options."""
    calls = [f"cluster('{corpus.name}', k => {k}{options}, seed => {seed})" for seed in SEEDS]
    if not bench.offers(f"SELECT 1 FROM {calls[0]} LIMIT 0"):
        return None
    found = [{} for _ in calls]
    for row in bench.sql(*(f"SELECT {at} AS call, doc_id, cluster_id FROM {call}" for at, call in enumerate(calls))):
        found[row["call"]][row["doc_id"]] = row["cluster_id"]
    return [np.array([groups[doc] for doc in corpus.table["doc_id"].to_pylist()]) for groups in found]


def measure(bench, n_resamples=1000, methods=METHODS):
    figures = Figures("topic and style")
    for data, frames in (("known frames", slice(0, 4)), ("held-out frames", slice(4, 8))):
        corpus = bench.corpus("topic_style", make_table(frames, random.Random(frames.start)))
        classes = {name: np.array(corpus.table[name].to_pylist()) for name in ("style", "topic")}
        weights = draws(n_resamples, np.arange(len(corpus)), classes["style"])

        def add(view, measure, groupings):
            if groupings is None:
                figures.not_offered(data, view, measure)
            else:
                name = measure.split(",")[0]
                figures.add(data, view, measure, np.mean([ari(classes[name], own, weights) for own in groupings], axis=0))
        words = clustering.weighted(count_words(corpus.texts)[0])
        for name, k in (("style", len(STYLES)), ("topic", len(TOPICS))):
            add(DENSE, name, grouped(bench, corpus, ", view => 'dense'", k))
            add(WORDS, name, [clustering.group_rows(words, 20, seed, k) for seed in SEEDS])
            for view in bench.views:
                add(view, name, grouped(bench, corpus, selection(view), k))
        for title, about in ABOUT.items():
            for method in methods:
                how = "" if method == "default" else f", method => {quoted(method)}"
                for view in bench.views if method == "default" else [bench.main_view]:
                    add(view, f"style, {title}{'' if method == 'default' else ', ' + method}",
                        grouped(bench, corpus, f", about => {quoted(about)}{how}{selection(view)}", len(STYLES)))
    return figures


def selection(view):
    return "" if view == ALL else f", dictionary => '{view}'"


def report(figures):
    rows = {(row["set"], row["view"], row["measure"]): row for row in figures.rows}
    views = list(dict.fromkeys(row["view"] for row in figures.rows))

    def cell(row):
        if row is None:
            return "-"
        return "not offered" if row.get("not_offered") else shown((row["value"], row["low"], row["high"]))
    for data in dict.fromkeys(row["set"] for row in figures.rows):
        titles = list(dict.fromkeys(row["measure"] for row in figures.rows if row["set"] == data))
        print_table([f"ARI, {data}", *views],
                    [[title, *(cell(rows.get((data, view, title))) for view in views)] for title in titles])
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, data=None)
    args = parser.parse_args()
    figures = measure(Workbench(args), args.resamples)
    report(figures)
    figures.write(args.json)


if __name__ == "__main__":
    main()
