"""Write distinct, unlabelled opinion sentences for distilling a sentiment model.

The text is produced by a recursive grammar with a hand-made vocabulary; nothing is
copied from any corpus.  Every symbol of the grammar maps to a list of alternatives,
and an alternative may hold further symbols:

``{name}``        expand the symbol ``name`` with the polarity of the current phrase
``{name+}``       the same (spelled out: "agrees with the verdict")
``{name-}``       expand with the opposite polarity ("disagrees with the verdict")
``{name:form}``   inflect the result: ``s`` third person, ``d`` past,
                  ``t`` plural subject, ``p`` plural noun, ``m`` a mass noun
``<a/b/>``        choose one of the alternatives, here possibly the empty one
``[is|are]``      agree with the last marked noun (singular|plural)
``@``             "a" before a countable singular noun, otherwise nothing

In the vocabulary a noun ending in ``*`` is plural and one ending in ``~`` is a mass noun.
A symbol stored as ``name+`` is only used in praise, ``name-`` only in complaints and a
plain ``name`` in both.  Domains (film, book, hotel, ...) inherit symbols from their parents.
"""

import argparse
import random
import re
from pathlib import Path


def words(text: str) -> list[str]:
    """Split a block of text on white space; an underscore stands for a space."""
    return [word.replace("_", " ") for word in text.split()]


def phrases(text: str) -> list[str]:
    """Split a block of text on semicolons and tidy the white space."""
    return [" ".join(part.split()) for part in text.split(";") if part.strip()]


def lines(text: str) -> list[str]:
    """Split a block of text into its non-empty lines."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


# --------------------------------------------------------------------------------------
# Vocabulary shared by all domains
# --------------------------------------------------------------------------------------

COMMON: dict[str, list[str]] = {
    "gadj+": words("""
        good pleasant satisfying enjoyable impressive likable rewarding appealing charming delightful lovely
        inviting thoughtful memorable refreshing generous honest reliable polished distinctive worthwhile
        stylish elegant clever imaginative sensible splendid welcome special surprising agreeable civilized
        pleasing admirable praiseworthy commendable dependable decent nice happy fun attractive remarkable
        """),
    "gadj-": words("""
        bad disappointing frustrating irritating annoying unpleasant mediocre forgettable shoddy sloppy careless
        unimpressive underwhelming overrated lazy tiresome miserable awkward dull bland clumsy pointless tacky
        aggravating unsatisfying dreary joyless charmless depressing exasperating maddening half-hearted poor
        regrettable lackluster unappealing ordinary soulless dismal
        """),
    "adj+": words("""
        wonderful excellent superb terrific fantastic marvelous outstanding exceptional first-rate magnificent
        great perfect brilliant amazing fabulous stellar top-notch glorious flawless unbeatable phenomenal sublime
        """),
    "adj-": words("""
        terrible awful horrible dreadful atrocious abysmal lousy appalling pathetic hopeless second-rate ghastly
        worthless useless rotten wretched woeful inexcusable disastrous third-rate subpar laughable pitiful
        """),
    "cmp+": words("""
        better brighter warmer sharper smarter kinder fresher livelier lovelier richer finer nicer bolder subtler
        """),
    "cmp-": words("""
        worse duller weaker sillier uglier lazier poorer clumsier shabbier blander drearier flatter sloppier
        """),
    "sup+": words("best finest smartest brightest warmest loveliest freshest sharpest nicest boldest happiest"),
    "sup-": words("worst weakest dullest sloppiest laziest dreariest flattest silliest poorest clumsiest saddest"),
    "deg": words("""
        very really truly thoroughly remarkably surprisingly consistently undeniably utterly quite genuinely deeply
        extremely unexpectedly frankly strangely extraordinarily downright positively unusually altogether
        decidedly distinctly incredibly particularly unmistakably exceptionally fundamentally intensely simply
        """),
    "deg+": words("""
        delightfully refreshingly wonderfully winningly gloriously beautifully disarmingly impressively amazingly
        splendidly gratifyingly reassuringly marvelously effortlessly reliably irresistibly enormously blissfully
        """),
    "deg-": words("""
        painfully insufferably hopelessly needlessly dismally depressingly terribly horribly irredeemably woefully
        embarrassingly tediously relentlessly unbearably bafflingly infuriatingly dreadfully numbingly fatally
        predictably inexcusably crushingly disappointingly laughably
        """),
    "soft": phrases("""
        a little; somewhat; rather; occasionally; at times; faintly; mildly; slightly; a bit; a touch; a shade;
        now and then; sporadically; intermittently; a trifle; vaguely
        """),
    "notdeg": words("""
        remotely particularly especially exactly entirely really even quite always exceptionally
        """),
    "subj": phrases("""
        the {thing}; this; it; this {thing}; it; this {thing}; the {thing}
        """),
    "obj": phrases("the {thing}; this; it; this {thing}; the {thing}; the whole thing; the {thing}"),
    "cop": phrases("[is|are]; [is|are]; [is|are]; [feels|feel]; [seems|seem]; [remains|remain]; [proves|prove]"),
    "often": words("often always usually frequently mostly largely generally sometimes regularly"),
    "rarely": words("never rarely seldom hardly_ever almost_never scarcely"),
    "vp+": phrases("""
        exceed every expectation; live up to its reputation; deserve the praise; win you over; earn its price;
        make a wonderful first impression; get the details right; deliver exactly what was promised; put a smile on
        your face; surprise in all the right ways; stand out from the crowd; reward a second visit;
        improve with every minute; justify the hype; leave a warm glow; get better and better;
        tick every box; work like a charm; brighten a dark week; hit the spot; strike the right balance
        """),
    "vp-": phrases("""
        disappoint on every level; fall short; waste your money; test your patience; cut corners; try too hard;
        promise more than it delivers; get the basics wrong; leave a sour taste; squander its advantages;
        miss the mark; wear out its welcome; go downhill fast; insult the customer; settle for second best;
        collapse under scrutiny; grate on the nerves; bore everyone in the room; take you for granted;
        leave you cold; spoil a good idea
        """),
    "asset+": words("""
        charm~ character~ care~ thought~ value~ quality~ style~ personality~ attention_to_detail~ warmth~ polish~
        generosity~ imagination~ integrity~ pride~ finesse~ comfort~ class~
        """),
    "asset-": words("""
        problems* excuses* disappointment~ carelessness~ shortcuts* hype~ delays* flaws* nonsense~ neglect~
        indifference~ frustration~ mistakes* complacency~ empty_promises* gimmicks* confusion~ arrogance~ greed~
        """),
    "ivp+": phrases("""
        loved every minute; came away smiling; would do it all again tomorrow; have already told all my friends;
        could not be happier; was pleasantly surprised; left with a spring in my step; have no complaints;
        enjoyed myself enormously; was won over completely; can recommend it without reservation;
        still think about it fondly; was hooked at once; felt thoroughly spoiled; fell for it immediately
        """),
    "ivp-": phrases("""
        regretted it almost at once; wanted my money back; left early; would not go through it again; gave up halfway;
        came away angry; was bitterly let down; felt cheated; could not wait for it to be over;
        have seldom been so bored; was sorry I bothered; expected far better; would not wish it on my worst enemy;
        still resent the wasted hours; lost patience quickly; sighed more than once
        """),
    "youvp+": phrases("""
        leave happy; want more; be glad you came; forget your worries; want to tell your friends; come back for more;
        feel lucky; be charmed; thank me later; have a grand time; wonder why you waited so long; grin like a child
        """),
    "youvp-": phrases("""
        leave annoyed; want a refund; be sorry you came; wonder where the money went; feel cheated; curse the hype;
        count the minutes; run for the door; need a strong drink; wish you had stayed at home; feel robbed;
        groan aloud
        """),
    "verdict+": phrases("""
        highly recommended; go now; do not miss it; worth every penny; a triumph; a real treat; what a joy; bravo;
        an unexpected pleasure; a keeper; money well spent; a gem; five stars; count me as a fan; more , please;
        pure pleasure; a winner; I was wrong to doubt it; simply lovely; sheer delight; a must
        """),
    "verdict-": phrases("""
        avoid; a waste of time; save your money; what a mess; never again; a dud; no thanks; a crushing
        letdown; skip it;
        steer clear; a missed opportunity; spare yourself; do not bother; a total bore; one star is too many; a shame;
        an ordeal; money down the drain; life is too short; ugh; a disgrace; stay home
        """),
    "hedge": phrases("""
        I suppose; to be fair; in all honesty; for what it is worth; in my view; if you ask me; admittedly;
        on reflection; to my surprise; truth be told; on balance; all things considered; in fairness; by and large;
        perhaps; as far as I can tell; to my mind; for me at least; in the end; at the end of the day; maybe I am
        too easily pleased; call me old-fashioned
        """),
    "speaker": phrases("""
        my sister; my father; a friend; my wife; my husband; the man behind me; our daughter; my neighbor; a
        colleague;
        the couple next to us; my grandmother; my teenage son; an old classmate; my flatmate; the critics; my boss;
        everyone I know; my cousin; a stranger; the woman beside me; the whole family
        """),
    "when": phrases("""
        in years; of the year; in recent memory; this season; in ages; of the decade; I can remember; of my life;
        this side of Christmas; in living memory; since the spring; this month
        """),
    "whole": phrases("""
        from start to finish; from the first minute to the last; throughout; all the way through; at every turn;
        from beginning to end; more often than not; in every respect; on almost every count; where it matters;
        almost by accident; in spite of everything; against all odds; in patches; without even trying
        """),
    "dream": phrases("""
        a warm bath; a letter from an old friend; the first day of summer; a long hug; fresh bread; birdsong at dawn;
        a cold drink in August; a snow day; sunlight after rain; a favorite song on the radio; a good night 's sleep;
        an unexpected kiss; clean sheets; a bonfire on the beach; strong coffee on a bad morning; a standing ovation;
        the smell of oranges; a winning lottery ticket; a picnic by a river; a child 's laughter; a day off
        """),
    "chore": phrases("""
        a parking fine; a tax return; a wet sock; a root canal; a stale sandwich; a flat tire; a broken elevator;
        an unpaid bill; a lukewarm bath; a night in an airport; a quarterly budget meeting; a mouthful of sand;
        a hangover; a traffic jam in the rain; a toothache; an instruction manual; a stack of invoices; a
        dripping tap;
        a two-hour seminar on insurance; cold porridge; a bus replacement service; a telephone queue; a power cut;
        a fire drill; a dead battery; a crowded waiting room; a bag of gravel; an empty fridge; a sermon on recycling;
        a puddle of dishwater; paint drying; a stubbed toe; a burst pipe; a bruised banana; a spreadsheet
        """),
}

# Sentence frames that suit any domain.
COMMON["frag"] = lines("""
    a {adj+} {thing}
    a {deg+} {gadj+} {thing}
    {deg+} {gadj+}
    {gadj+} and {gadj+}
    {gadj+} , {gadj+} and {deg+} {gadj+}
    not {notdeg} {gadj-}
    never {gadj-}
    never less than {gadj+}
    neither {gadj-} nor {gadj-}
    {gadj-} at first , then {gadj+}
    {gadj+} , if {soft} {gadj-}
    {soft} {gadj-} but {deg+} {gadj+}
    {partnp+}
    {partnp+} , {partnp+}
    {partnp+} and {partnp+}
    {partnp-} but {partnp+}
    easily the {sup+} {thing} {when}
    one of the {sup+} {thing:p} {when}
    far from {gadj-}
    anything but {gadj-}
    more {gadj+} than {gadj-}
    a {thing} that {vp+:s}
    a {gadj+} {thing} that {rarely} {vp-:s}
    {gadj+} {whole}
    the {sup+} {thing} {when} , and the most {gadj+}
    a {gadj-} {thing} it is not
    nothing {gadj-} here
    no {asset-} , plenty of {asset+}
    {asset+} , {asset+} and {asset+}
    {asset+} without {asset-}
    all {asset+} and no {asset-}
    {verdict+}
    a {thing} of {deg+} {gadj+} {asset+:m}
    so {gadj+}
    a {gadj+} , {gadj+} {thing} with {asset+} to spare
    too {gadj+} to be called {gadj-}
    {gadj+} where the last one was {gadj-}
    every bit as {gadj+} as <they say/promised/its reputation/the last one>
    for once , a {thing} that is not {gadj-}
    the opposite of {gadj-}
    the very definition of {gadj+}
    a {gadj+} antidote to {gadj-} {thing:p}
    hardly {gadj-} , and {often} {gadj+}
    {gadj+} ? yes . {gadj-} ? no .
    {gadj-} ? hardly
    """)
COMMON["frag+"] = lines("""
    as {gadj+} as {dream}
    like {dream}
    a {thing} to treasure
    not bad at all
    not without its <faults/flaws/rough edges> , but {deg+} {gadj+}
    two enthusiastic thumbs up
    a {thing} worth <crossing town/staying up/queuing/saving up/canceling plans> for
    """)
COMMON["frag-"] = lines("""
    about as {gadj-} as {chore}
    about as much fun as {chore}
    like {chore}
    a {thing} to forget
    not good at all
    not the {sup+} {thing} {when} , but close
    so much <hype/fuss/money/effort> , so little {asset-:m}
    {gadj-} in theory , {gadj+} in practice
    a {thing} with delusions of {asset-:m}
    strictly for <masochists/completists/insomniacs/the desperate/the easily pleased>
    """)

COMMON["clause"] = lines("""
    {subj} is {deg+} {gadj+}
    {subj} is {adj+}
    {subj} is {gadj+} and {gadj+}
    {subj} is a {adj+} {thing}
    {subj} {vp+:s}
    {subj} {vp+:s} and {vp+:s}
    {subj} {often} {vp+:s}
    {subj} {rarely} {vp-:s}
    {subj} <does not/does n't> {vp-}
    {subj} <is not/is n't> {notdeg} {gadj-}
    {partcl+}
    {partcl+}
    {partcl+} and {partcl+}
    {partcl+} , {partcl+} , and {partcl+}
    {partcl+} but {partcl-}
    there is nothing {gadj-} about {obj}
    there is something {deg+} {gadj+} about {obj}
    {subj} could hardly be more {gadj+}
    {subj} is never {gadj-} and {often} {deg+} {gadj+}
    I {ivp+}
    I {ivp+}
    you will {youvp+}
    you might even {youvp+}
    I have rarely <come across/met/known> a {thing} so {gadj+}
    {subj} is so {gadj+} that you will {youvp+}
    {subj} is so {gadj+} that I {ivp+}
    {subj} is too {gadj+} to {vp-}
    {subj} is <more/far more/even more/rather more> {gadj+} than <it looks/I expected/its rivals/anyone will admit>
    {subj} is {cmp+} than <the last one/most/its predecessor/I feared/I expected/advertised/you would guess>
    few {thing:p} are this {gadj+}
    I expected a {adj-} {thing} and got a {adj+} one
    nobody could call {obj} {gadj-}
    only a {who} with no taste would find {obj} {gadj-}
    {who:p} will find it {gadj+}
    any {who} hoping for {asset+:m} will {youvp+}
    {subj} has {asset+} <to spare/in abundance/by the bucket/and little else/where others have {asset-}>
    {subj} has more {asset+} than {asset-}
    {subj} <has/shows/offers> none of the <usual/expected/familiar> {asset-}
    what strikes you first is the {asset+:m}
    {speaker} called {obj} {gadj-} , <and/but> I {ivp+}
    {speaker} and I both thought it {gadj+}
    I would not call {obj} {gadj-}
    I would call {obj} {gadj+} rather than {gadj-}
    {subj} could have been {gadj-} , but it {vp+:s}
    with {partnp+} , {subj} {vp+:s}
    the {asset+:m} is {deg+} {gadj+}
    if {subj} has a virtue it is not {asset-:m}
    nothing about {obj} is {gadj-}
    once upon a time {subj} was {gadj-} , and now it is {gadj+}
    the more I think about {obj} , the <more {gadj+}/{cmp+}> it seems
    the longer it goes on , the <more {gadj+}/{cmp+}> it gets
    {subj} <turns out to be/ends up/becomes/stays/looks/sounds> {deg+} {gadj+}
    whatever you have heard , {subj} is {gadj+}
    it takes {asset+:m} to make a {thing} this {gadj+}
    """)
COMMON["clause+"] = lines("""
    {subj} is as {gadj+} as {dream}
    it felt like {dream}
    {subj} deserves a {cmp+} <audience/reception/reputation> than it got
    I dare you not to {youvp+}
    it is hard not to {youvp+}
    {subj} may not be {adj+} , but it is far from {gadj-}
    {subj} has its <faults/flaws/limits/lapses> and I {ivp+} anyway
    {subj} manages to {vp+}
    {subj} refuses to {vp-}
    {subj} avoids {asset-} entirely
    you would have to be made of stone not to {youvp+}
    {subj} makes the competition look {gadj-}
    I came for the {anypart} and stayed for the {asset+:m}
    I went in expecting {asset-:m} and found {asset+:m}
    the {anypart} alone [is|are] worth the price
    even the {anypart} [is|are] {gadj+}
    I have no idea why anyone would find {obj} {gadj-}
    """)
COMMON["clause-"] = lines("""
    {subj} is about as {gadj-} as {chore}
    it felt like {chore}
    {subj} fails to {vp-}
    {subj} <forgets/struggles/neglects/strains> to {vp-}
    {subj} never manages to {vp-}
    {subj} lacks {asset-}
    {subj} is short on {asset-} and long on {asset+}
    {subj} mistakes {asset+:m} for {asset-:m}
    I would rather have <{chore}/{chore}> than go through {obj} again
    {subj} wants to be {gadj-} and ends up {gadj+}
    {subj} <thinks it is/believes itself/is meant to be> {gadj-} , but {subj} {vp+:s}
    {subj} might have been {gadj-} had the {anypart} been less {gadj+}
    {subj} is not {gadj-} enough to {vp-}
    {subj} is too {gadj+} to be {gadj-}
    not even the {anypart} can save {obj}
    I have had more fun with {chore}
    {subj} is neither {gadj-} nor {gadj-} enough
    I kept waiting for {asset-:m} that never came
    no amount of {asset-:m} can hide the {asset+:m}
    I wanted to like {obj} , but I {ivp+}
    """)

COMMON["sent"] = lines("""
    {verdict+} !
    {verdict+} .
    {frag+} -- {verdict+} .
    is {obj} {gadj-} ? not at all .
    who knew a {thing} could be so {gadj+} ?
    when did {thing:p} get so {gadj+} ?
    how can a {thing} be so {gadj+} and so {gadj-} ?
    why are not more {thing:p} this {gadj+} ?
    how {gadj+} it all is !
    what a {gadj+} {thing} !
    what a {gadj+} , {gadj+} {thing} this is !
    if you want {asset+:m} , <look no further/this is the place to start/here it is> .
    if you like your {thing:p} {gadj+} , <this one is for you/step right up/you know what to do> .
    if only every {thing} were as {gadj+} as this .
    trust me : {clause+} .
    {hedge} , {clause+} .
    {hedge} , {clause+} .
    {clause+} , {hedge} .
    " {gadj+} " is the word that comes to mind .
    " {gadj-} " is not a word I would use .
    {speaker} said it was " {gadj+} " , and for once I agree .
    " {verdict+} , " {speaker} <said/whispered/muttered/announced/told me/wrote> , and {clause+} .
    {speaker} <hated/loved/liked/disliked> it ; I {ivp+} .
    do not let the {anypart} fool you : {clause+} .
    forget the {anypart} ; {clause+} .
    {frag+} ... {frag+} .
    {gadj+} . {gadj+} . {gadj+} .
    there are two kinds of {thing} , the {gadj+} and the {gadj-} , and this is the {gadj+} kind .
    {clause+} . {verdict+} .
    {clause+} . {frag+} .
    yes , {partcl-} . no , I do not care , because {clause+} .
    {partcl+} , {partcl+} , and you will {youvp+} .
    {asset+:m} ? check . {asset+:m} ? check .
    the {anypart} , the {anypart} , the {anypart} : all {gadj+} .
    I {ivp+} , and so will you .
    I am not a {who} by nature , yet I {ivp+} .
    as a {who} of many years , I {ivp+} .
    at its <best/worst> it is {gadj+} ; the rest of the time it is merely {gadj+} .
    part {gadj+} , part {gadj+} , all {gadj+} .
    """)
COMMON["sent+"] = lines("""
    where has this {thing} been all my life ?
    can I give it six stars ?
    I did not want it to end .
    who could resist a {thing} like this ?
    go on , treat yourself : {clause+} .
    please , sir , may I have another ?
    rarely has {asset+:m} been so much fun .
    I arrived a skeptic and left a believer .
    """)
COMMON["sent-"] = lines("""
    oh good , another {gadj-} {thing} with {asset+} .
    just what the world needed : a {thing} even more {gadj+} than the last .
    {adj-} work , everyone , if the goal was {asset+:m} .
    {adj-} , if you enjoy {chore} .
    what were they thinking ?
    did nobody notice that {partcl+} ?
    is it too much to ask for a little {asset-:m} ?
    congratulations to all involved on making {asset+:m} look easy .
    where is the {asset-:m} ? where is the point ?
    I have nothing against {thing:p} , but {clause+} .
    someone , somewhere , was paid for this .
    it might be " {gadj-} " to some ; to me it was {chore} .
    thank heavens it had to end eventually .
    you would think a {thing} with {asset-} could not {vp+} , and you would be wrong .
    """)
COMMON["comp"] = lines("""
    {clause+} , and {clause+} .
    {clause-} , but {clause+} .
    {clause-} , yet {clause+} .
    although {clause-} , {clause+} .
    even if {clause-} , {clause+} .
    {clause+} , even though {clause-} .
    {clause+} , though {clause-} .
    {clause+} because {clause+} .
    {clause+} ; {clause+} .
    {clause+} -- {frag+} .
    {frag+} : {clause+} .
    {frag+} , and {clause+} .
    {frag-} , perhaps , but {clause+} .
    while {clause-} , {clause+} .
    despite {partnp-} , {clause+} .
    despite {partnp-} and {asset-} , {clause+} .
    in spite of {partnp-} , {clause+} .
    for all its {asset-} , {clause+} .
    for all the talk of {asset-:m} , {clause+} .
    thanks to {partnp+} and {partnp+} , {clause+} .
    apart from {partnp-} , {clause+} .
    instead of {partnp-} you get {partnp+} , and {clause+} .
    {clause+} , so {clause+} .
    not only is {obj} {gadj+} , but {clause+} .
    it helps that {clause+} , since {clause-} .
    it does not matter that {partcl-} when {partcl+} .
    I know {speaker} will disagree , but {clause+} .
    {partcl-} , {partcl-} , and still {clause+} .
    the first half is {gadj-} , the second is {gadj+} , and {clause+} .
    you could argue that {partcl-} , but {clause+} .
    unless you are <very/terribly/unusually/impossibly> hard to please , you will {youvp+} , because {clause+} .
    if {partcl-} , it hardly matters , because {partcl+} .
    the {anypart} may be {gadj-} , but {clause+} .
    {clause+} , which is more than can be said for the {anypart} .
    had {obj} been less {gadj+} , I might not have minded that {partcl-} .
    once you accept that {partcl-} , {clause+} .
    as {partcl+} and {partcl+} , {clause+} .
    {clause+} , and {speaker} , who thought it {gadj-} , is wrong .
    <at first/for a while/early on/to begin with> , {clause-} ; <later/after that/before long/in the end> , {clause+} .
    every time {partcl-} , {asset+:m} comes along to change the mood .
    """)
COMMON["neutral"] = lines("""
    the {thing} is listed under " {letter} " on the website .
    I have not tried it yet .
    {speaker} asked me about the {anypart} on {day} .
    the {thing} has been around since {year} .
    it is the {ordinal} {thing} of its kind in {city} .
    """)
COMMON["day"] = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
COMMON["month"] = words("January February March April May June July August September October November December")
COMMON["ordinal"] = words("first second third fourth fifth sixth seventh eighth ninth tenth")
COMMON["number"] = words("""
    two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty ninety
    """)
COMMON["year"] = words("1931 1948 1957 1963 1972 1979 1984 1991 1998 2003 2009 2014 2019 2022")
COMMON["letter"] = words("new featured popular seasonal local classic other miscellaneous")
COMMON["city"] = words("""
    Paris London Tokyo Berlin Chicago Toronto Lisbon Vienna Dublin Boston Madrid Rome Oslo Seoul Mumbai Istanbul
    Glasgow Prague Lagos Havana Sydney Montreal Warsaw Cairo Athens Naples Manchester Texas Brooklyn Helsinki
    """)

# --------------------------------------------------------------------------------------
# Culture: films, series, books, music, theatre and art share critics' vocabulary
# --------------------------------------------------------------------------------------

CULTURE: dict[str, list[str]] = {
    "gadj+": words("""
        affecting moving touching poignant heartfelt tender luminous absorbing engrossing gripping riveting
        compelling captivating enchanting bewitching beguiling spellbinding mesmerizing hypnotic haunting lyrical
        poetic evocative atmospheric intimate delicate subtle nuanced restrained understated assured confident
        accomplished masterly deft nimble playful witty funny hilarious droll wry sly mischievous irreverent
        satirical subversive provocative daring audacious bold brave fearless original inventive ingenious
        innovative fresh vivid vibrant colorful exuberant energetic lively spirited zesty sparkling effervescent
        breezy buoyant joyful jubilant uplifting inspiring stirring rousing life-affirming humane compassionate
        empathetic wise profound thought-provoking insightful illuminating perceptive incisive intelligent smart
        literate sophisticated elegant graceful sumptuous ravishing gorgeous exquisite dazzling breathtaking
        stunning magical wondrous transporting immersive thrilling exciting exhilarating electrifying suspenseful
        tense taut nail-biting propulsive kinetic visceral powerful potent searing shattering devastating
        harrowing unflinching uncompromising honest authentic truthful believable convincing resonant timely
        urgent essential ambitious sprawling epic majestic soulful bittersweet wistful melancholy dreamlike
        offbeat quirky idiosyncratic eccentric endearing adorable winning winsome disarming engaging entertaining
        diverting amusing crowd-pleasing infectious irresistible addictive unforgettable indelible durable
        complex layered multilayered textured richly_detailed meticulous well-crafted tightly_wound hard-hitting
        clear-eyed sharp-tongued warm-hearted good-natured sweet kind gentle cathartic consoling seductive sensual
        romantic swooning rapturous rhapsodic feverish delirious raucous rollicking swashbuckling uproarious
        side-splitting laugh-out-loud zippy snappy brisk crisp lean economical focused well-observed tactful
        contemplative meditative serene mature seasoned nourishing invigorating bracing
        """),
    "gadj-": words("""
        tedious boring dull plodding ponderous turgid stodgy leaden lifeless inert listless lethargic sluggish
        slow overlong bloated padded repetitive monotonous meandering rambling shapeless aimless unfocused muddled
        confused confusing incoherent incomprehensible impenetrable convoluted overcomplicated overstuffed
        overwrought overblown overheated overcooked bombastic pompous pretentious self-important self-indulgent
        smug smarmy sanctimonious preachy didactic heavy-handed obvious simplistic superficial shallow hollow
        empty vapid vacuous insipid anemic watery flimsy thin slight inconsequential trivial disposable generic
        formulaic by-the-numbers derivative unoriginal recycled secondhand hackneyed trite stale musty dated
        creaky clichéd predictable contrived implausible preposterous far-fetched unconvincing phony fake
        artificial stilted stiff wooden mechanical calculated manipulative mawkish maudlin sentimental syrupy
        saccharine cloying sappy schmaltzy treacly corny hokey cheesy juvenile sophomoric infantile childish puerile
        crude crass vulgar tasteless tawdry sleazy sordid exploitative mean-spirited cruel nasty cynical callous
        offensive repellent repulsive grating shrill noisy deafening frantic hyperactive chaotic disjointed
        choppy clunky inept amateurish bungled botched misguided misjudged misconceived ill-conceived half-baked
        undercooked underwritten underdeveloped uninspired unimaginative unfunny laughless humorless mirthless
        witless brainless mindless senseless stupid idiotic moronic dumb asinine inane silly ludicrous laborious
        labored strained forced perfunctory rote rushed slapdash haphazard messy murky drab dingy gloomy bleak
        oppressive suffocating punishing excruciating interminable soporific numbing deadening exhausting draining
        wearisome unbearable unwatchable insufferable obnoxious irksome gimmicky flashy soggy flabby lumbering
        toothless timid bloodless passionless sterile clinical cold distant remote uninvolving unmoving
        unengaging pedestrian workmanlike so-so middling run-of-the-mill cookie-cutter cut-rate cheap desperate
        needy overfamiliar undistinguished one-note two-dimensional lopsided patronizing condescending
        """),
    "adj+": words("""
        masterful virtuoso peerless impeccable transcendent incomparable one-of-a-kind knockout first-class
        grade-A triumphant monumental towering astonishing sensational definitive prizeworthy
        """),
    "adj-": words("""
        abominable execrable unforgivable irredeemable unspeakable bottom-of-the-barrel godawful dire rancid
        catastrophic insulting unreleasable throwaway godforsaken embarrassing cringeworthy D-grade
        """),
    "cmp+": words("""
        funnier wiser braver deeper tenderer cleverer stranger wilder sadder gentler tighter leaner grander sweeter
        slyer darker wittier livelier moodier spookier
        """),
    "cmp-": words("""
        dumber longer slower louder emptier shallower creakier cheaper noisier crasser cruder thinner colder murkier
        messier soggier baggier stodgier hammier
        """),
    "sup+": words("funniest wisest bravest deepest cleverest sweetest wittiest slyest grandest tenderest strangest"),
    "sup-": words("""
        dumbest loudest emptiest shallowest crassest messiest stodgiest slowest thinnest noisiest phoniest
        """),
    "vp+": phrases("""
        earn its tears; linger in the mind for days; sneak up on you; cast a spell; sing; soar; crackle with energy;
        glow from within; grow richer as it goes; hold you in its grip; trust its audience; find beauty in small
        things; balance comedy and sorrow with ease; pull off a difficult trick; keep you guessing; build to a
        shattering finish; breathe new life into an old story; wear its heart on its sleeve; transcend its genre;
        cut straight to the bone; ask hard questions; treat its characters with respect; capture the ache of first
        love; turn the ordinary into poetry; tickle the funny bone; raise goosebumps; stir the soul;
        hum with menace; delight the eye; get under your skin; pack an emotional punch; reward close attention;
        restore your faith in the form; dig beneath the surface; dance on the edge of tragedy; leave you breathless;
        fizz with ideas; avoid easy answers; hit all the right notes; charm young and old alike; burn slowly and
        brightly; end on a note of grace; dare to be quiet; tell the truth; speak to the heart; shine; enthrall;
        sparkle; make you laugh and then ^make you cry; bring history to life; celebrate kindness without going soft;
        find the humor in despair; illuminate a hidden world; look its subject squarely in the face; deepen with
        every scene; honor its source; know exactly when to stop; move like lightning; never put a foot wrong;
        open a window on another life; play like a dream; radiate compassion; sweep you off your feet; unfold
        like a secret; set the pulse racing; weave its threads together beautifully; invite you to think;
        resist every temptation to preach; strike a chord
        """),
    "vp-": phrases("""
        drag on for an hour too long; fall apart in the final act; lose its nerve; run out of steam; go nowhere
        slowly;
        overstay its welcome; drown in sentiment; sink under its own weight; lurch from one cliché to the next;
        strain for laughs; talk down to its audience; beat you over the head with its message; telegraph every twist;
        pile on the misery; mistake volume for feeling; confuse shock with depth; recycle old jokes; rehash
        better work;
        limp to the finish; fizzle out; fall flat; ring false; grind to a halt; wander off in search of a point;
        wallow in self-pity; cheat its characters; collapse into melodrama; coast on its good looks; squander a
        promising premise; bite off more than it can chew; plod from scene to scene; put me to sleep; insult your
        intelligence; trivialize a serious subject; pander to the crowd; reach for profundity and ^grasp at straws;
        explain everything twice; leave no cliché unturned; trip over its own plot; tie itself in knots; cop out;
        stall; sputter; meander; drone; sag badly in the middle; sermonize; unravel; flounder; evaporate on contact;
        choke on its own cleverness; rely on coincidence; smother its few good ideas; tug shamelessly at the
        heartstrings; play it safe; go through the motions; scrape the bottom of the barrel; pad out a thin idea;
        shout when it should whisper; skim the surface; paint by numbers; miss every opportunity; bury its heart under
        noise; add nothing new; borrow from everyone and ^improve on no one; feel twice as long as it is;
        run on autopilot; wring its hands; fade from memory within the hour; try your patience
        """),
    "asset+": words("""
        wit~ humor~ grace~ tenderness~ feeling~ suspense~ tension~ chemistry~ soul~ heart~ compassion~ insight~
        nuance~
        subtlety~ ambition~ energy~ momentum~ mystery~ magic~ poetry~ beauty~ passion~ conviction~ depth~ irony~
        laughs* thrills* surprises* ideas* shivers* goosebumps* revelations* truth~ dignity~ sincerity~ sympathy~
        intelligence~ vitality~ verve~ panache~ flair~ exuberance~ audacity~ originality~ invention~ clarity~
        restraint~
        wonder~ empathy~ bite~ atmosphere~ rhythm~ curiosity~ craft~ mischief~ wisdom~ delicacy~ melancholy~
        honest_emotion~ moral_complexity~ genuine_surprise~ sparkling_wit~ belly_laughs* fine_performances*
        """),
    "asset-": words("""
        clichés* padding~ melodrama~ bombast~ sentimentality~ self-pity~ cynicism~ smugness~ vulgarity~ bathos~
        contrivance~ plot_holes* stereotypes* cheap_shots* stale_jokes* product_placement~ pretension~ bluster~
        posturing~
        platitudes* caricatures* sermons* coincidences* loose_ends* pratfalls* fart_jokes* toilet_humor~ exposition~
        tedium~ monotony~ incoherence~ noise~ clutter~ hysteria~ sanctimony~ self-importance~ schmaltz~ drivel~
        filler~ repetition~ laziness~ mannerisms* gratuitous_violence~ dead_air~ mugging~ shouting~ hokum~ bloat~
        recycled_gags* pointless_detours* crude_stunts* half-formed_ideas* jump_scares* empty_spectacle~ navel-gazing~
        """),
    "manner+": words("""
        beautifully deftly gracefully skillfully lovingly carefully cleverly elegantly exquisitely expertly finely
        sensitively superbly vividly wittily subtly intelligently handsomely crisply nimbly patiently tenderly warmly
        lyrically imaginatively confidently delicately sharply inventively richly gorgeously sumptuously artfully
        """),
    "manner-": words("""
        clumsily badly poorly lazily ineptly crudely carelessly awkwardly hastily sloppily flatly mechanically
        heavily cheaply limply woodenly listlessly amateurishly haphazardly indifferently frantically tiresomely
        drably dully unimaginatively incompetently shoddily atrociously obviously loudly murkily
        """),
    "ivp+": phrases("""
        laughed until my ribs ached; wept openly; cried on the bus home; forgot to breathe; sat stunned in the dark;
        was moved to tears; wanted to stand up and cheer; was on the edge of my seat; walked home in a daze; lay awake
        thinking about it; smiled for two days; was transported; fell under its spell; gasped aloud;
        felt my heart swell; was gripped; was utterly absorbed; started it again from the beginning;
        clapped until my hands hurt; had a lump in my throat; snorted with laughter; was glued to it
        """),
    "ivp-": phrases("""
        checked my watch every ten minutes; nodded off; wanted to throw something; stifled a dozen yawns;
        rolled my eyes;
        felt nothing; longed for the end; counted the exit signs; cringed; squirmed in embarrassment; winced;
        prayed for a power cut; laughed once , at the wrong moment; fell asleep before the end; stopped caring
        early on;
        lost the thread and never missed it; daydreamed about dinner; groaned at every line; was bored stiff;
        felt my brain cells dying; barely cracked a smile; could not have cared less; began composing a shopping list
        """),
    "youvp+": phrases("""
        laugh and cry; cheer at the end; reach for a handkerchief; hold your breath; want to start again at once;
        call your mother; fall in love; shiver with pleasure; believe every word; lose track of time; be swept along;
        leave humming; see the world a little differently; root for everyone; be haunted by it
        """),
    "youvp-": phrases("""
        yawn; reach for the remote; fall asleep; stop caring; guess the ending; check your phone; roll your eyes;
        want those hours back; long for the credits; envy the people who left; learn nothing; feel your mind wander;
        squirm; cringe; feel older at the end than at the start
        """),
    "verdict+": phrases("""
        a small masterpiece; an instant classic; bring tissues; art of the highest order; an absolute delight;
        a tour de force; a quiet wonder; the real thing; a revelation; stunning work; bring the kids; give it
        every award
        """),
    "verdict-": phrases("""
        dead on arrival; a snooze; pure hokum; a turkey; bring a pillow; an insult; a cynical cash grab; a fiasco;
        an embarrassment; two hours I will never get back; forgotten by morning; drivel; a train wreck; a slog; tripe
        """),
    "theme": words("""
        grief love loyalty betrayal friendship ambition jealousy faith doubt exile loneliness memory guilt
        forgiveness revenge motherhood fatherhood childhood adolescence desire obsession poverty privilege
        power corruption
        justice war survival marriage divorce aging illness addiction recovery freedom honor shame pride class
        identity immigration heartbreak courage cowardice hope despair regret envy innocence madness fame failure
        family rivalry sisterhood brotherhood sacrifice redemption mortality solitude homesickness denial trust
        greed temptation prejudice resistance rebellion nostalgia belonging unemployment bereavement longing rage
        infidelity masculinity womanhood kindness cruelty violence silence art genius mourning estrangement
        """),
    "portrait": phrases("""
        portrait of {theme}; study of {theme}; meditation on {theme}; story of {theme} and {theme}; tale of {theme};
        look at {theme}; fable about {theme}; exploration of {theme}; satire on {theme}; essay on {theme};
        hymn to {theme}; take on {theme}; tribute to {theme}; parable about {theme} and {theme}; sketch of {theme};
        treatment of {theme}; chronicle of {theme}; lament for lost {theme}; portrait of {character};
        account of {place} in {decade}; study of {character} and {character}; story about {character}
        """),
    "decade": phrases("""
        the twenties; the thirties; the forties; the fifties; the sixties; the seventies; the eighties; the
        nineties; wartime; peacetime; the age of steam; the last century; a hard winter
        """),
    "trait": words("""
        lonely widowed retired stubborn ambitious timid reckless brilliant disgraced aging young grieving homesick
        cynical idealistic washed-up bankrupt shy haunted jealous restless pregnant blind runaway orphaned exiled
        ruthless clumsy absent-minded penniless wealthy corrupt devout rebellious lovesick sleepless bored famous
        forgotten small-town middle-aged teenage divorced half-mad weary gifted suspicious mute vengeful
        """),
    "job": words("""
        detective beekeeper teacher nurse surgeon farmer fisherman soldier spy assassin pianist violinist
        dancer painter
        poet novelist journalist photographer priest nun monk carpenter butcher baker tailor waitress chef bartender
        taxi_driver trucker pilot sailor astronaut scientist inventor robot hacker gambler thief con_artist smuggler
        bank_robber policeman sheriff cowboy gunslinger lawyer judge senator president mayor king queen princess
        knight wizard witch vampire ghost zombie werewolf superhero boxer wrestler jockey coach goalkeeper cheerleader
        student professor librarian bookseller clerk accountant salesman secretary janitor gardener undertaker
        gravedigger lighthouse_keeper mechanic plumber electrician miner engineer architect landlord tenant
        maid butler
        nanny babysitter widow widower bride groom bachelor twin mother father son daughter grandmother uncle
        stepsister
        refugee immigrant prisoner warden hostage bodyguard hitman mercenary drummer rapper opera_singer
        magician clown
        acrobat puppeteer puppet stuntman screenwriter actress critic weatherman comedian billionaire heiress
        shepherd hermit pilgrim missionary explorer archaeologist translator diplomat postman florist hairdresser
        swimmer skater surfer chess_champion orphan schoolboy schoolgirl tourist drifter tramp cult_leader
        psychiatrist
        """),
    "character": phrases("""
        a {trait} {job}; a {trait} {job}; a {trait} , {trait} {job}; a {job}; two {trait} {job:p}; a {job} and
        a {trait} {job};
        a {trait} {job} from {place}
        """),
    "place": phrases("""
        a fishing village; a mining town; a remote island; a crumbling hotel; a boarding school; a trailer park;
        a desert outpost; a frozen lake; a Brooklyn bakery; a convent; a submarine; a space station; a
        travelling circus;
        a vineyard; a country house; a housing estate; a prison camp; a quiet suburb; a border town; a coastal resort;
        a hospital ward; a derelict factory; a barn; a nightclub; a monastery; a shopping mall; a castle; a swamp;
        a skyscraper; a jungle; a harbor; the suburbs; the trenches; the mountains; the old neighborhood; a moon base;
        the wilderness; the deep south; the north of England; a mountain cabin; a ghost town; a lighthouse;
        a rented apartment;
        a summer camp; a call center; a racetrack; a newsroom; a courtroom; a caravan site; {city}; {city}; {city}
        """),
    "item": words("""
        piano violin suitcase necklace diary map lantern bicycle tractor motorcycle submarine balloon camera
        typewriter
        telescope painting statue mirror clock umbrella sword rifle pistol knife key letter photograph wedding_ring
        crown coin treasure diamond goat horse donkey parrot puppy kitten elephant tiger wolf whale octopus
        rooster cow
        orchard garden bakery bookshop theater hotel casino ranch boat ferry lifeboat train tram truck bus
        fortune secret recipe manuscript formula curse potion time_machine spaceship satellite laptop telephone radio
        jukebox guitar trumpet drum accordion scarf hat overcoat uniform wig mask boot glove blanket quilt pillow
        mattress sofa chandelier candle teapot kettle saucepan ladder hammer shovel wheelbarrow coffin tombstone
        bouquet rose cactus pumpkin watermelon sandwich pie cheese barrel bottle crate basket backpack compass anchor
        kite doll puppet trophy medal passport ticket skeleton fossil meteor lottery_ticket will library
        """),
    "plotvp": phrases("""
        inherit a {item}; steal a {item}; lose a {item}; bury a {item} in {place}; discover a {item} in
        {place}; befriend a {trait} {job}; fall for a {job}; betray a {job}; marry a {trait} {job}; blackmail a {job};
        rescue a {job} from {place}; return to {place} after {number} years; escape from {place}; move to
        {place}; open
        a {item} museum in {place}; swap lives with a {job}; hunt a {trait} {job}; kidnap a {job}; adopt a {item};
        sell a {item} to a {job}; repair a {item}; teach a {job} about {theme}; learn about {theme} from a
        {trait} {job};
        wake up in {place} with a {item} and no memory; travel to {place} with a {item}; hide a {item} from a {job};
        pretend to be a {job}; train as a {job}; forgive a {job}; confront a {job} in {place};
        witness a murder in {place}; search {place} for a lost {item}; fake a death; run away with a {job};
        solve the case of a missing {item}; take revenge on a {job}; share a house with a {job};
        build a {item} out of scrap; hear voices from a {item}; smuggle a {item} into {place}
        """),
    "plot": phrases("""
        {character1} who {plotvp:s}; {character1} who {plotvp:s} and {plotvp:s}; {character1} trying to {plotvp};
        what happens when {character1} {plotvp:s}
        """),
    "character1": phrases("a {trait} {job}; a {job}; a {trait} {job}; a {job} from {place}"),
    "first": words("""
        Anna Marta Lucas Helen Victor Nadia Oscar Irene Felix Clara Hugo Bruno Ella Simon Grace Leon Alice Jonas Rosa
        Walter Maya Peter Julia Daniel Sofia Omar Karen Henry Leila Frank Ivy Martin Elena George Ruth Samir Nora Tom
        Agnes Carlos Miriam Stephen Judith Raymond Kate Vincent Priya Marcus Joan Diego
        """),
    "last": words("""
        Holloway Lindqvist Marsh Okafor Petrov Delgado Whitaker Moreau Sandoval Kessler Ashby Tanaka Ferrante Quinn
        Abernathy Novak Castellan Rourke Pemberton Vance Adeyemi Bellamy Thorne Iversen Calloway Brandt Mendes Sharma
        Hargrove Fenwick Sorensen Duarte Winslow Beckett Haddad Langley Ostrow Prentice Rossi Stanhope Varga Yates
        """),
    "name": phrases("{first} {last}; {first} {last}; {last}"),
    "title": phrases("""
        The {titleadj} {titlenoun}; {titleadj} {titlenoun}; {titlenoun} of the {titlenoun2}; The {titlenoun}
        """),
    "titleadj": words("""
        Glass Crimson Silent Last Broken Paper Golden Midnight Electric Hollow Painted Winter Salt Burning
        Velvet Hidden
        Seventh Drowned Savage Blue Iron Borrowed Wandering Second Lost
        """),
    "titlenoun": words("""
        Orchard River Daughter Machine Harbor Garden Witness Piano Kingdom Letters Summer Lantern Passenger
        Horizon Shadow
        Mirror Empire Station Sister Thief Bridge Storm Waltz Island Hour
        """),
    "titlenoun2": words("""
        Moon Dead North Sea Wolves Dust Night Saints Snow Morning Brave Sparrows Lake Mind Tides Crows
        """),
    "metaphor+": phrases("""
        a love letter; a fever dream; a prayer; a slow dance; a long conversation with an old friend; a lit fuse;
        an act of mercy; a quiet storm; a hymn; a firework; a confession; a lullaby; a trip to a moon base; a gift;
        a master class; a spell; a poem; a warm embrace; a dance with the devil; a door into another world; a miracle
        """),
    "metaphor-": phrases("""
        a slide show; a lecture; a sales pitch; an endurance test; a museum piece; a shopping list; a press release;
        a screensaver; a hostage situation; a school assembly; a committee report; a pile of leftovers; a tantrum;
        a car commercial; a greeting card; a first draft; a vanity project; a trailer; a theme park ride without the
        ride; a history exam; a soap opera; a perfume advertisement; a tax dodge; a list of grievances; a sedative
        """),
    "mood": words("""
        joy sorrow terror delight sadness anger tenderness wonder dread longing despair ecstasy panic bliss fury fear
        happiness misery anguish elation relief melancholy awe anxiety affection pity disgust contentment horror
        """),
    "who": words("""
        viewer fan critic admirer newcomer skeptic enthusiast cynic romantic dreamer purist fanatic grown-up
        """),
}

for _symbol in ("first", "last", "name"):
    COMMON[_symbol] = CULTURE.pop(_symbol)  # sport needs names as well

CULTURE["frag"] = lines("""
    a {gadj+} {portrait}
    a {deg+} {gadj+} {portrait}
    a {gadj+} and {gadj+} {portrait}
    a {gadj+} {thing} about {plot}
    {manner+} {done} and {manner+} {done}
    {manner+} {done}
    {manner+} {done} , {manner+} {done} and {deg+} {gadj+}
    {manner+} {done} but {manner-} {done}
    less a {thing} than {metaphor+}
    more {metaphor+} than {metaphor-}
    not so much a {thing} as {metaphor+}
    {metaphor+} disguised as a {thing}
    a {gadj+} blend of {theme} and {theme}
    a {thing} of {asset+:m} and {asset+:m}
    moments of {mood} and {mood} , {manner+} {done}
    a {gadj+} {portrait} , full of {asset+}
    {number} parts {asset+:m} to one part {asset-:m}
    a {gadj+} {thing} from <a/the> {gadj+} {maker}
    {maker} {name} at <his/her> most {gadj+}
    {gadj+} , {gadj+} , and <above all/best of all/worst of all/ultimately> {gadj+}
    another {gadj+} {portrait} from {name}
    a {trait} {job} , a {item} , and {asset+}
    all the {asset+:m} of {metaphor+}
    a {thing} as {gadj+} as its {maker} is {trait}
    {gadj+} to the bone
    {gadj+} even by the standards of {thing:p}
    {asset+} in search of a {thing}
    """)
CULTURE["frag+"] = lines("""
    a {thing} to be savored
    the rare {thing} with a heart and a brain
    a {gadj+} {thing} for the ages
    {mood} , {mood} and everything in between
    a {gadj+} ode to {theme}
    """)
CULTURE["frag-"] = lines("""
    a {thing} without a pulse
    {gadj+} claptrap
    {gadj+} twaddle about {theme}
    a {gadj+} exercise in {asset+:m}
    {theme} for dummies
    yet another {gadj+} {thing} about {character}
    all {anypart} and no {asset-:m}
    """)
CULTURE["clause"] = lines("""
    {subj} is {manner+} {done} and {manner+} {done}
    {subj} is {manner+} {done}
    {subj} is {manner+} {done} but {manner-} {done}
    {subj} is less {metaphor-} than {metaphor+}
    {subj} feels like {metaphor+}
    {subj} plays <like/less like {metaphor-} than> {metaphor+}
    {subj} is a {gadj+} {portrait}
    this {gadj+} {portrait} {vp+:s}
    the story of {plot} {vp+:s}
    you have never seen {theme} treated so {manner+}
    {maker} {name} {mvp+:s}
    {maker} {name} {mvp+:s} and {mvp+:s}
    {name} {mvp+:s}
    {name} , as {character1} , {mvp+:s}
    {name} , who {mvp+:s} , and {name} , who {mvp+:s} , are {deg+} {gadj+}
    the {maker} {mvp+:s}
    the {maker} {rarely} {mvp-:s}
    what could have been {metaphor-} becomes {metaphor+}
    in the hands of {name} , even {asset-} can become {asset+}
    the scene with the {item} is {deg+} {gadj+}
    the scene in which {character1} {plotvp:s} {vp+:s}
    when {character1} {plotvp:s} , {subj} {vp+:s}
    " {title} " is {deg+} {gadj+}
    " {title} " {vp+:s}
    " {title} " is a {gadj+} {portrait}
    " {title} " , about {plot} , is {gadj+} and {gadj+}
    " {title} " has {asset+} , {asset+} and {asset+}
    {thing:p} about {theme} are {often} {gadj-} , but this one {vp+:s}
    {thing:p} like this {often} {vp-:t} , but this one {vp+:s}
    {subj} <turns/has turned> {theme} into {metaphor+}
    {subj} has something {gadj+} to say about {theme}
    {subj} says <little/much/plenty/something/a great deal> about {theme} that is {gadj+}
    I believed <every/hardly a/not one> word of it , and it {vp+:s}
    the {mood} is {gadj+} , the {mood} {manner+} {done}
    the plot , in which {character1} {plotvp:s} , is {gadj+}
    I never thought I would find a {thing} about {character1} so {gadj+}
    only {name} could make {theme} this {gadj+}
    {subj} makes {theme} look {gadj+}
    {subj} moves from {mood} to {mood} {manner+}
    for every {gadj-} moment there are ten {gadj+} ones
    every {item} in it seems {manner+} chosen
    {subj} is the {sup+} {thing} about {theme} {when}
    {subj} is the most {gadj+} {thing} {name} has made
    {subj} owes its {asset+:m} to {name} , who {mvp+:s}
    {theme} has {rarely} been so {gadj-}
    """)
CULTURE["clause+"] = lines("""
    {subj} finds {asset+:m} in the most unlikely places
    I would follow these characters anywhere
    I could have <spent/passed> another three hours in its company
    even the {job} with one line is {gadj+}
    {subj} earns every <laugh/tear/gasp/minute/scare>
    somehow a {item} , a {job} and {place} add up to {metaphor+}
    {name} has never been better
    {subj} left me with a feeling of {mood} I can not shake
    behind the {asset-:m} of lesser {thing:p} lies the {asset+:m} of this one
    """)
CULTURE["clause-"] = lines("""
    {subj} has the {asset-:m} of {chore}
    there is less {asset-:m} here than in {chore}
    I cared more about the {item} than about the {job}
    a {item} gives the most {gadj-} performance
    someone should have told {name} that {asset+:m} is not {asset-:m}
    {name} deserves better than {asset+}
    {subj} reduces {theme} to {metaphor+}
    {subj} tells us nothing about {theme} that a {item} could not
    the only mystery is why anyone <agreed/paid/bothered> to make it
    {subj} wants to say something about {theme} and {vp+:s}
    I stopped believing in it when {character1} {plotvp:d}
    {subj} has all the {asset-:m} of {metaphor+}
    the {maker} should try being {gadj-} for a change
    """)
CULTURE["sent"] = lines("""
    {maker} {name} {mvp+:s} , and the result is {gadj+} , {gadj+} and {gadj+} .
    " {title} " : {frag+} .
    in " {title} " , {character1} {plotvp:s} ; {clause+} .
    you may think you have had enough of {character1} who {plotvp:s} , but {subj} {vp+:s} .
    {character1} {plotvp:s} . {clause+} .
    {character1} {plotvp:s} , {character1} {plotvp:s} , and {clause+} .
    could anything be more {gadj+} than {character1} who {plotvp:s} ?
    part {metaphor+} , part {metaphor+} , " {title} " {vp+:s} .
    it is a {thing} about {theme} , about {theme} , and finally about {theme} , and it {vp+:s} .
    set in {place} in {decade} , {subj} {vp+:s} .
    like {metaphor+} , {subj} {vp+:s} .
    after the {adj-} " {title} " , {name} returns with a {gadj+} {portrait} .
    dear {name} : {clause+} .
    whether {subj} {vp+:s} or merely {vp+:s} is hard to say .
    there is {mood} in it , and {mood} , and {asset+:m} , all of it {manner+} {done} .
    by the time {character1} {plotvp:s} , you will {youvp+} .
    no {item} , no {job} , no {mood} : just {asset+} , {manner+} {done} .
    from the {item} in the opening to the {mood} of the ending , it {vp+:s} .
    """)
CULTURE["sent+"] = lines("""
    how do you make a {item} heartbreaking ? ask {name} .
    bring a handkerchief and a friend : {clause+} .
    the house lights came up and nobody moved .
    I went home and hugged my children .
    """)
CULTURE["sent-"] = lines("""
    {character1} {plotvp:s} . so what ?
    imagine {metaphor+} , but longer and more {gadj+} .
    if {asset+:m} were {asset-:m} , this would be a {adj-} {thing} .
    somewhere inside this {gadj+} {thing} is a {gadj-} one , screaming to get out .
    come for the {asset-:m} , they said . there is none .
    oh look , a {trait} {job} . how original .
    {name} wrote it , {name} produced it , and only {name} could enjoy it .
    I have seen {chore} with more {asset-:m} .
    """)
CULTURE["comp"] = lines("""
    " {title} " follows {plot} , and {clause+} .
    a {thing} about {plot} ought to be {gadj-} , but {clause+} .
    what begins as a {gadj-} {portrait} turns into a {gadj+} {portrait} , and {clause+} .
    {name} {mvp+:s} , {name} {mvp+:s} , and {clause+} .
    although {maker} {name} {mvp-:s} , {clause+} .
    {clause+} , and when {character1} {plotvp:s} , you will {youvp+} .
    the {maker} {mvp-:s} , true , but {clause+} .
    if {name} {mvp-:s} , {name} {mvp+:s} , and {clause+} .
    it may be {manner-} {done} , but it is {manner+} {done} , and {clause+} .
    {clause+} , as if {metaphor-} had been turned into {metaphor+} .
    in between the {asset-} there is {asset+:m} , and {clause+} .
    without {name} , who {mvp+:s} , {subj} would be {metaphor-} .
    by turns {gadj+} and {gadj+} , this {portrait} {vp+:s} , and {clause+} .
    """)
CULTURE["comp"] += lines("""
    {maker} {name} , whose last {thing} was a {gadj-} {portrait} , returns with something {gadj+} : {plot} .
    I went because {speaker} insisted , sat through {asset-:m} and {asset-:m} , and still {ivp+} .
    those who come for {asset+} will {youvp+} ; those who come for {asset-} will {youvp-} .
    there are {gadj-} patches , and {name} {mvp-:s} , but what remains is a {gadj+} {portrait} .
    it is hard to say which is more {gadj+} , {partnp+} or {partnp+} , but {clause+} .
    {subj} wants to be {metaphor-} , a {gadj+} {portrait} and {metaphor+} all at once , and it {vp+:s} .
    as {character1} , {name} is {gadj+} ; as {character1} , {name} is {gadj-} ; between them , {subj} {vp+:s} .
    nobody who remembers " {title} " will be surprised that {clause+} .
    I laughed once , at a {item} , and thought about {theme} twice , and {clause+} .
    {clause+} , from its {gadj+} opening in {place} to its {gadj+} last word .
    where another {maker} would have given us {asset-} , {name} gives us {asset+} , and {clause+} .
    the {gadj-} title and the {gadj-} poster hide a {gadj+} {portrait} .
    """)
CULTURE["neutral"] = lines("""
    the {thing} tells of {plot} .
    " {title} " is set in {place} during {decade} .
    {name} plays {character1} who {plotvp:s} .
    {maker} {name} was born in {city} in {year} .
    the {thing} is {number} minutes long and was made in {city} .
    " {title} " , by {name} , will be released in {month} .
    a {job} and a {trait} {job} meet in {place} .
    it is based on a true story about {character1} .
    {character1} {plotvp:s} .
    {character1} {plotvp:s} , then {plotvp:s} .
    {name} and {name} first worked together in {year} .
    in the {ordinal} chapter , {character1} {plotvp:s} .
    the {thing} opens with a {item} in {place} and ends with {character1} .
    this is the {ordinal} {thing} by {maker} {name} .
    the action moves from {place} to {place} .
    it takes place over {number} days in {month} .
    """)

# Plain everyday wording: pronouns, common verbs, small talk about people and time.

COMMON["sent"] += lines("""
    I keep telling people the same thing : {clause+} .
    looking back , {clause+} .
    we talked about it the entire drive home and agreed that {clause+} .
    {speaker} looked at me , I looked at {speaker} , and we both knew : {clause+} .
    they said it would be {gadj-} , and they were wrong ; {clause+} .
    they took such a {gadj-} idea and made it {gadj+} .
    actually , {clause+} , and anybody who says otherwise <is/must be> joking .
    a hundred dollars , and {clause+} .
    I have been a {who} since I was a <boy/girl/kid/teenager> , and {clause+} .
    on the <train/bus/flight/way> home I tried to explain why it was so {gadj+} .
    the question is not whether it is {gadj-} but how it got to be so {gadj+} .
    apparently somebody likes it . {clause+} .
    suddenly , about an hour in , {clause+} .
    possibly I was in the wrong mood , but {clause+} .
    """)
COMMON["sent+"] += lines("""
    I was allowed to choose the present this year , and I chose this .
    we stayed up talking about it until three , and nobody was tired .
    I was so happy afterwards that I bought dinner for <everybody/my friends/a stranger> .
    it made a grown man , namely me , <dance in the street/smile at babies/sing in the shower> .
    somebody should <give/send/hand> whoever made this a medal : {clause+} .
    they get everything right , and they make it look easy .
    """)
COMMON["sent-"] += lines("""
    I do not know what they were trying to do , but they did not do it .
    somebody please explain what anybody sees in this .
    somebody should give whoever made this a stern talking-to : {clause+} .
    nobody seemed to care , so why should we ?
    you can wait and wait for it to get going , and it never does .
    is that really all there is ?
    all that money , and {partcl+} .
    perhaps I expected too much , but surely not that much .
    """)
CULTURE["clause"] += lines("""
    he {mvp+:s} , and she {mvp+:s}
    she {mvp+:s} , as she usually does
    he {rarely} {mvp-:s}
    they <make/find/keep> such {asset+:m} in the smallest moments that it hardly seems possible
    her {thing} is {deg+} {gadj+} and his is merely {gadj+}
    we <watch/see/meet> {character1} , and what we <feel/get/find> is {asset+:m}
    their romance is {gadj+} , their quarrels are {gadj+} , and somehow we {seem} to care
    he plays {character1} with {asset+:m} and she answers with {asset+:m}
    you can feel the <writers/makers/artists> <reaching/working/sweating> for {asset+:m}
    she looks {trait} , he looks {trait} , and their scenes together are {gadj+}
    the same old story of {character1} is told with {asset+:m}
    I laughed , I cried , and I noticed how {gadj+} it was
    """)
CULTURE["seem+"] = words("start come begin continue")
CULTURE["seem-"] = words("forget refuse fail cease")
CULTURE["sent"] += lines("""
    he wants {theme} , she wants {theme} , and we want {asset+:m} ; everybody gets some .
    when her father dies , {character1} goes home to {place} , and {clause+} .
    his name is {name} , he makes {thing:p} , and this one is {gadj+} .
    they meet , they fight , they kiss , and all of it is {deg+} {gadj+} .
    a boy , a girl , a {item} , and {asset+} .
    she is {trait} , he is {trait} , their {item} is missing , and {clause+} .
    it asks who we are , what we want and where we are going , and the answers are {gadj+} .
    happily , {name} {mvp+:s} ; sadly , {name} {mvp-:s} ; on the whole , {clause+} .
    I saw it twice , once alone and once with {speaker} , and both times it was {gadj+} .
    nothing really happens , yet {clause+} .
    """)

# Film and series ----------------------------------------------------------------------

FILM = {
    "thing": phrases("""
        film; movie; picture; drama; comedy; thriller; documentary; horror film; western; musical; biopic;
        romance; sequel;
        prequel; remake; reboot; series; sitcom; miniseries; cartoon; animated feature; short film; mystery; whodunit;
        crime drama; caper; heist movie; spy thriller; war film; road movie; romantic comedy; coming-of-age
        story; satire;
        farce; fantasy; science-fiction epic; costume drama; period piece; melodrama; courtroom drama; slasher;
        ghost story; monster movie; disaster movie; superhero movie; action movie; martial-arts film; chick flick;
        buddy comedy; black comedy; mockumentary; psychodrama; political thriller; film noir; family film; debut;
        blockbuster; indie; feature; screwball comedy; sports movie; gangster saga; adaptation; spoof; parody;
        teen comedy; vampire movie; holiday movie; kids ' movie; travelogue; pilot episode; finale
        """),
    "maker": phrases("""
        director; writer-director; screenwriter; filmmaker; first-time director; showrunner; producer;
        documentarian; animator; auteur
        """),
    "done": words("""
        acted shot edited written staged paced directed plotted lit scored photographed cast told structured observed
        designed choreographed narrated scripted filmed drawn conceived framed assembled mounted animated performed
        """),
    "who": words("moviegoer cinephile filmgoer teenager parent film_buff child couch_potato"),
    "mvp+": phrases("""
        direct with a steady hand; steal every scene; find the perfect tone; know where to put the camera; hold
        the screen;
        light up the screen; give the performance of a lifetime; disappear into the part; let the silence speak; bring
        real tenderness to the role; say more with a glance than most actors do in a speech; carry the film;
        juggle the tones like a pro; coax wonderful work from the cast; show an eye for faces;
        orchestrate the chaos with glee; play the part with sly intelligence; keep a firm grip on the material;
        do career-best work; find music in ordinary talk; trust the actors; bring wit and warmth to every exchange;
        make a striking debut; radiate charm; hit every beat; underplay to perfection; handle the twists with skill;
        break your heart; have a gift for comedy; frame every shot like a painting
        """),
    "mvp-": phrases("""
        phone it in; mug for the camera; chew the scenery; look bored; mumble through the part; seem lost;
        have no feel for comedy; direct with a sledgehammer; let every scene run too long; bark every line;
        sleepwalk through the role; shake the camera until you feel ill; have the charisma of a doorknob;
        overact wildly;
        pile one cliché on another; flounder; cut away from anything interesting; drown every moment in music;
        lean on slow motion; have nothing to say; show contempt for the audience; pose instead of acting; pout;
        smirk through every scene; mistake gloom for depth; waste a fine cast; lose control of the story;
        borrow every trick in the book; look embarrassed to be there; recite the lines like a phone book
        """),
    "anypart": words("""
        script trailer ending opening soundtrack dialogue~ costumes* performances* special_effects* premise
        title poster
        villain twist budget car_chases* fight_scenes* jokes* narration~ cinematography~ love_story cast finale sets*
        supporting_players* animation~ director hero dog action_sequences* credits* flashbacks* voiceover makeup~
        """),
    "frag": lines("""
        {number} minutes of {gadj+} {asset+:m}
        a {gadj+} {thing} with a {gadj+} script and a {gadj+} cast
        a {cmp+} , <darker/shorter/quieter/bigger> version of " {title} "
        """),
    "clause": lines("""
        the <first/last/middle> <hour/half/act/reel/twenty minutes> {vp+:s}
        the romance between the {job} and the {job} {vp+:s}
        the chemistry between {name} and {name} is {gadj+}
        I watched it <on a plane/with my mother/on a rainy Sunday/at a festival/twice/in an empty cinema> and {ivp+}
        the jokes about {theme} are {deg+} {gadj+}
        as {thing:p} go , this one is {deg+} {gadj+}
        the performance of {name} as {character1} is {gadj+}
        the camera follows {character1} {manner+} , and {subj} {vp+:s}
        season {number} is {cmp+} than season {number}
        the {thing} that results is {gadj+} , {gadj+} , and {rarely} {gadj-}
        """),
    "neutral": lines("""
        the series has {number} episodes , each about {number} minutes long .
        filming began in {place} in {month} .
        the {thing} opens in theaters on {day} .
        it was shot in black and white with a crew of {number} .
        the dialogue is in French , with subtitles .
        the cast includes {name} , {name} and {name} .
        """),
}
FILM_GROUPS = {
    "story": (
        words("""
            script screenplay plot story premise storyline narrative ending twist setup finale concept climax subplot
            backstory subplots* love_story resolution
            """),
        words("""
            original ingenious clever gripping airtight fresh inspired well-constructed satisfying believable
            surprising intricate elegant tight suspenseful engaging smart intriguing rich credible
            """),
        words("""
            contrived flimsy threadbare preposterous predictable muddled derivative absurd incoherent thin laughable
            convoluted implausible far-fetched paper-thin hackneyed unfinished stale baffling senseless
            """),
    ),
    "acting": (
        words("""
            acting~ cast lead_performance performances* supporting_cast leads* ensemble star actors* child_actors*
            leading_man leading_lady villain hero heroine supporting_players* newcomer
            """),
        words("""
            magnetic superb natural charismatic convincing terrific winning nuanced captivating sublime luminous
            appealing radiant commanding heartbreaking faultless excellent unforgettable
            """),
        words("""
            wooden stiff bland miscast hammy lifeless irritating unconvincing charmless dreadful grating forgettable
            colorless amateurish insufferable awkward expressionless one-note
            """),
    ),
    "talk": (
        words("""
            dialogue~ banter~ jokes* one-liners* gags* wisecracks* humor~ comedy~ satire~ narration~ repartee~
            puns*
            """),
        words("""
            witty sharp sparkling hilarious quotable fresh funny priceless snappy droll delicious razor-sharp wry
            """),
        words("""
            stilted corny unfunny leaden stale lame cringe-inducing tired crude labored groan-worthy puerile flat
            """),
    ),
    "look": (
        words("""
            cinematography~ photography~ camerawork~ sets* costumes* visuals* animation~ special_effects* lighting~
            production_design~ scenery~ locations* makeup~ imagery~ landscapes* stunts* action_scenes* fight_scenes*
            """),
        words("""
            gorgeous stunning sumptuous ravishing striking breathtaking eye-popping painterly lush handsome inventive
            dazzling spectacular lovely crisp vivid
            """),
        words("""
            ugly drab murky cheap shoddy garish tacky amateurish cheesy unconvincing lackluster cluttered muddy
            dreary nauseating second-rate
            """),
    ),
    "score": (
        words("score soundtrack music~ songs* musical_numbers* sound_design~ theme_tune"),
        words("haunting stirring hummable exquisite lovely rousing evocative catchy hypnotic magnificent"),
        words("intrusive syrupy deafening grating overbearing forgettable manipulative bombastic generic tinny"),
    ),
    "pace": (
        words("pacing~ direction~ editing~ tempo storytelling~ structure tone"),
        words("brisk assured confident fluid skillful sure-handed supple measured masterful deft seamless"),
        words("sluggish plodding erratic choppy clumsy uncertain lethargic heavy-handed flabby chaotic uneven"),
    ),
    "people": (
        words("""
            characters* relationships* hero heroine family lovers* protagonists* sidekick villains* friendship
            """),
        words("vivid lovable believable complex memorable endearing fully_rounded sympathetic human fascinating"),
        words("""
            cardboard unlikable one-dimensional underwritten stereotyped annoying hateful interchangeable
            cartoonish
            """),
    ),
}

BOOK = {
    "thing": phrases("""
        novel; book; memoir; biography; short story; collection; anthology; poem; thriller; mystery; trilogy; saga;
        autobiography; debut novel; fairy tale; picture book; comic book; graphic novel; cookbook; travel book;
        history book; textbook; page-turner; paperback; audiobook; essay; fantasy series; detective story;
        romance novel;
        translation; sequel; crime novel; children 's book; diary; novella
        """),
    "maker": phrases("""
        author; novelist; poet; writer; biographer; historian; storyteller; essayist; translator; humorist
        """),
    "done": words("""
        written plotted researched told translated edited imagined constructed phrased argued illustrated paced
        structured observed described narrated printed organized
        """),
    "who": words("reader bookworm book_club_member librarian student bookseller"),
    "mvp+": phrases("""
        write like an angel; turn a phrase beautifully; have a flawless ear for speech; bring the past to life;
        see right through people; keep the pages turning; build a whole world; waste not a single word;
        make you care about everyone; handle suspense with skill; have wonderful insight; find exactly the right word
        """),
    "mvp-": phrases("""
        write like a lawyer; overexplain everything; love adjectives too much; have a tin ear; repeat every point;
        recycle an earlier book; ramble; run out of plot; drop names on every page; lecture the reader;
        bury the story in footnotes; need a ruthless editor; have never met a real teenager
        """),
    "anypart": words("""
        prose~ cover opening_chapter ending characters* footnotes* dialogue~ illustrations* title index
        first_sentence blurb epilogue photographs* plot
        """),
    "frag": lines("""
        {number} pages of {gadj+} {asset+:m}
        a {gadj+} read
        a {gadj+} {thing} , {manner+} translated
        """),
    "clause": lines("""
        I read it <in one sitting/on the train/over a weekend/on holiday/for my book club/aloud to my son> and {ivp+}
        every chapter {vp+:s}
        the last fifty pages are {deg+} {gadj+}
        {name} writes about {theme} {manner+}
        this is a {gadj+} read
        the sentences are {gadj+} and the people {gadj+}
        """),
    "neutral": lines("""
        the book has {number} chapters and an index .
        the {thing} was first published in {year} .
        my copy came from a library in {city} .
        the translator added notes at the back .
        """),
}
BOOK_GROUPS = {
    "story": (
        words("plot story opening_chapter ending mystery central_idea argument structure conclusion twist"),
        words("""
            gripping ingenious absorbing satisfying unpredictable compelling intricate lucid persuasive clever
            """),
        words("""
            predictable plodding muddled far-fetched flimsy contrived confusing pointless unconvincing aimless
            """),
    ),
    "prose": (
        words("prose~ writing~ style dialogue~ descriptions* language~ verse~ imagery~ metaphors* sentences*"),
        words("luminous elegant spare graceful lyrical crystalline supple musical limpid vivid muscular exact"),
        words("purple clumsy overwritten turgid clunky wooden stodgy florid flat tortured impenetrable lumpy"),
    ),
    "people": (
        words("characters* narrator heroine hero detective family minor_characters* villain"),
        words("unforgettable lovable vivid believable complex engaging lifelike sympathetic"),
        words("wooden tiresome unlikable cardboard dull whiny interchangeable unbelievable"),
    ),
    "object": (
        words("research~ illustrations* photographs* cover maps* footnotes* translation printing~"),
        words("meticulous beautiful handsome impeccable thorough generous charming"),
        words("sloppy ugly careless patchy blurry inadequate riddled_with_errors shoddy"),
    ),
}

MUSIC = {
    "thing": phrases("""
        album; record; song; concert; symphony; opera; single; debut album; live recording; mixtape;
        soundtrack; ballad;
        gig; recital; tour; festival; jazz set; playlist; concerto; string quartet; cover version; compilation;
        encore;
        music video; rap album; country record; double album; performance
        """),
    "maker": phrases("""
        singer; composer; songwriter; conductor; guitarist; drummer; pianist; rapper; producer; soprano; tenor;
        cellist; bassist; violinist; bandleader
        """),
    "done": words("""
        sung played produced arranged recorded mixed conducted performed written orchestrated rehearsed mastered
        sequenced engineered
        """),
    "who": words("listener concertgoer music_lover dancer audiophile groupie"),
    "mvp+": phrases("""
        sing straight from the heart; play with fire and precision; have a voice like honey; own the stage;
        write melodies that stay for days; swing hard; make every note count; bring the house down; find new colors in
        old songs; have impeccable timing; phrase like a great actor; whip the crowd into a frenzy
        """),
    "mvp-": phrases("""
        sing flat; mumble the words; hide behind studio tricks; play everything at one volume; murder a classic;
        strain for the high notes; rush every phrase; sound half asleep; have run out of tunes; shriek;
        turn up an hour late; copy everyone else
        """),
    "anypart": words("""
        lyrics* chorus melody guitar_solo vocals* bass_line drumming~ sound lighting~ opening_track strings*
        harmonies* remix stage_show backing_band encore
        """),
    "frag": lines("""
        {number} tracks of {gadj+} {asset+:m}
        a {gadj+} chorus and a {gadj+} beat
        """),
    "clause": lines("""
        I played it <in the car/on repeat/at full volume/to my students/at a party/through headphones> and {ivp+}
        every track {vp+:s}
        the second side is {cmp+} than the first
        {name} sings about {theme} {manner+}
        the {ordinal} song , about a {item} , is {deg+} {gadj+}
        the crowd was restless but the band was {gadj+}
        """),
    "neutral": lines("""
        the album was recorded in {city} in {number} days .
        the band has {number} members and a {job} on drums .
        doors open at eight and the music starts at nine .
        the concert was moved to {day} .
        """),
}
MUSIC_GROUPS = {
    "sound": (
        words("""
            production~ sound mix rhythm_section guitars* drumming~ bass_line arrangements* orchestration~
            strings* beats*
            """),
        words("lush crisp warm thunderous sparkling tight inventive glossy hypnotic rich silky"),
        words("tinny muddy sterile cluttered lifeless thin plastic deafening sludgy lumpy overproduced"),
    ),
    "song": (
        words("melodies* choruses* hooks* songs* tunes* ballads* riffs* harmonies* solos* encore set_list"),
        words("infectious catchy gorgeous soaring sublime memorable heavenly irresistible joyous stirring"),
        words("forgettable tuneless dreary repetitive plodding limp sappy interchangeable grating aimless"),
    ),
    "voice": (
        words("vocals* singing~ voice lyrics* rapping~ delivery choir phrasing~"),
        words("soulful angelic powerful heartfelt velvety pure expressive smoky radiant"),
        words("shrill flat nasal off-key whiny hoarse banal feeble screechy out_of_tune"),
    ),
}

STAGE = {
    "thing": phrases("""
        play; production; ballet; revival; musical; exhibition; show; sculpture; installation; painting;
        retrospective;
        dance piece; puppet show; pantomime; monologue; stand-up routine; circus; gallery show; tragedy; farce;
        one-man show; magic show; mural; cabaret; sketch show; matinee; improv night; photo essay
        """),
    "maker": phrases("""
        director; playwright; choreographer; curator; painter; sculptor; artist; designer; ballerina; comic;
        puppeteer; stage manager
        """),
    "done": words("""
        staged danced acted lit designed choreographed directed written hung curated rehearsed performed painted
        costumed conceived
        """),
    "who": words("theatergoer visitor spectator art_lover museum-goer schoolchild subscriber"),
    "mvp+": phrases("""
        command the stage; see color like nobody else; fill the theater with joy; find the poetry in every line;
        make the old text new; dance as if weightless; work small miracles with light; hold the house in one hand;
        bring the audience to its feet; turn a bare stage into a kingdom
        """),
    "mvp-": phrases("""
        shout every line; drop cues; hang the pictures in the dark; bury the text in gimmicks; wander about the stage;
        forget the words; drown the actors in smoke; ruin a great play; confuse us with symbols; preach from
        the footlights
        """),
    "anypart": words("""
        set costumes* lighting~ first_act second_act interval staging~ orchestra ushers* seats* brushwork~
        wall_text puppets* curtain_call programme
        """),
    "frag": lines("""
        {number} rooms of {gadj+} {asset+:m}
        a {gadj+} evening at the theater
        """),
    "clause": lines("""
        I saw it <on opening night/from the back row/with a school party/at a preview/from the gods> and {ivp+}
        the second act {vp+:s}
        the audience <laughed/fidgeted/coughed/cheered/whispered> , and {subj} {vp+:s}
        it was a {gadj+} evening at the theater
        the painting of a {item} is {deg+} {gadj+}
        """),
    "neutral": lines("""
        the play runs until {month} , with matinees on {day} .
        the exhibition fills {number} rooms of the museum .
        there is one interval of {number} minutes .
        tickets go on sale on {day} .
        """),
}
STAGE_GROUPS = {
    "stage": (
        words("staging~ set lighting~ choreography~ costumes* design layout sets* puppetry~ curation~"),
        words("ingenious magical striking ravishing inventive elegant playful bewitching spare witty"),
        words("cluttered clumsy gloomy gimmicky drab creaky confusing garish shoddy cramped"),
    ),
    "art": (
        words("""
            paintings* canvases* brushwork~ drawings* sculptures* portraits* photographs* collages* still_lifes*
            """),
        words("luminous arresting vibrant exquisite serene haunting masterly bold"),
        words("muddy banal lifeless derivative ugly pretentious insipid childish"),
    ),
    "acting": (
        words("acting~ dancing~ cast performers* chorus soloists* clowns* comedian leading_lady timing~"),
        words("electrifying graceful superb hilarious radiant fearless assured spellbinding"),
        words("wooden clumsy feeble shouty unfunny mannered lethargic under-rehearsed"),
    ),
}

# --------------------------------------------------------------------------------------
# Everyday domains
# --------------------------------------------------------------------------------------

RESTAURANT = {
    "thing": words("""
        restaurant café bistro diner pizzeria meal dinner lunch brunch tasting_menu bakery pub food_truck
        breakfast steakhouse noodle_bar buffet curry_house tavern dessert
        """),
    "who": words("diner customer foodie regular vegetarian gourmet"),
    "anypart": words("""
        soup service~ wine_list bread~ bill dessert coffee~ menu steak chef decor~ portions* waiter fries* salad
        view music~ restroom
        """),
    "gadj+": words("tasty cozy romantic hearty wholesome authentic mouthwatering friendly relaxed lively affordable"),
    "gadj-": words("""
        overpriced greasy noisy cramped dirty pretentious stingy tasteless chaotic unhygienic unwelcoming slow
        """),
    "vp+": phrases("""
        melt in the mouth; taste like home; fill you up without emptying your wallet; make vegetables exciting;
        treat every guest like family; feed the soul
        """),
    "vp-": phrases("""
        charge a fortune for crumbs; serve everything cold; upset the stomach; leave you hungry; keep you waiting
        an hour for a sandwich; drown everything in grease; smell of old frying oil
        """),
    "ivp+": phrases("""
        licked the plate; ordered seconds; tipped double; booked again before leaving; ate until I could not move
        """),
    "ivp-": phrases("sent it back; left hungry; was sick all night; pushed the plate away; went home and made toast"),
    "clause": lines("""
        we ordered the {dish} and the {dish} , and the {food} [was|were] {foodadj+}
        the {dish} tasted like {foodtaste+}
        our waiter was {staffadj+} and the {dish} {foodadj+}
        for the price , the {dish} was {deg+} {gadj+}
        """),
    "dish": words("""
        soup salmon lamb duck risotto lasagna curry burger steak pizza omelet chowder ramen stew tart cheesecake
        pancakes~ ravioli~ trout brisket hummus~ tiramisu~ gnocchi~ pudding paella sushi~ pie casserole
        """),
    "foodtaste+": phrases("""
        summer; a holiday by the sea; pure comfort; heaven; my grandmother 's kitchen on a good day
        """),
    "foodtaste-": phrases("""
        cardboard; salt water; a wet newspaper; the inside of a freezer; boiled rubber; regret; soap
        """),
    "neutral": lines("""
        the {dish} comes with rice or bread .
        the kitchen closes at ten on {day} .
        we had a table for {number} by the window .
        the menu lists {number} kinds of {dish} .
        """),
}
RESTAURANT_GROUPS = {
    "food": (
        words("""
            food~ soup bread~ steak fish pasta~ vegetables* sauce dessert noodles* chicken~ fries* pastry~
            oysters* starters* dumplings* coffee~ seafood~ gravy~ salad rice~ beef~ cake
            """),
        words("""
            delicious tender succulent crisp fragrant juicy flavorful tasty divine scrumptious fresh
            perfectly_seasoned rich light mouthwatering piping_hot
            """),
        words("""
            bland soggy overcooked undercooked rubbery greasy burnt stale inedible salty cold dry tough flavorless
            rancid watery gristly lumpy sour
            """),
    ),
    "staff": (
        words("service~ waiters* waitress staff~ owner hostess bartender chef"),
        words("attentive friendly charming courteous patient welcoming quick gracious cheerful helpful"),
        words("rude surly slow inattentive dismissive snooty clueless grumpy impatient"),
    ),
    "place": (
        words("decor~ atmosphere terrace dining_room tables* kitchen lighting~ patio"),
        words("cozy elegant inviting spotless charming relaxed sunny lovely"),
        words("filthy cramped gloomy sticky noisy drafty dingy shabby"),
    ),
}

PRODUCT = {
    "thing": words("""
        phone laptop vacuum kettle blender toaster jacket backpack mattress lamp watch camera tablet speaker
        printer bicycle stroller tent drill razor keyboard sofa dishwasher heater umbrella hairdryer
        coffee_machine lawnmower television pair_of_boots set_of_pans
        """),
    "who": words("buyer owner customer gadget_lover bargain_hunter user"),
    "anypart": words("""
        battery packaging~ zipper handle instructions* screen price warranty strap buttons* charger color lid
        """),
    "gadj+": words("""
        sturdy durable handy lightweight comfortable efficient quiet well-made practical versatile sleek robust
        """),
    "gadj-": words("""
        flimsy unreliable defective cheap noisy fragile uncomfortable impractical overpriced useless dangerous
        bulky leaky faulty
        """),
    "vp+": phrases("""
        work perfectly out of the box; last for years; make life easier; do exactly what it says; survive a fall;
        save hours of work; feel solid in the hand; start at the first try
        """),
    "vp-": phrases("""
        break after a week; stop working without warning; overheat; leak; fall to pieces; arrive damaged; refuse
        to switch on; rattle; smell of burnt plastic; scratch if you look at it; jam
        """),
    "ivp+": phrases("""
        bought two more as gifts; use it every day; wonder how I managed without it; threw out my old one
        """),
    "ivp-": phrases("""
        returned it within a week; asked for a refund; threw it in the bin; went back to my old one; cut my thumb
        """),
    "clause": lines("""
        after {number} weeks , the {part} [is|are] still {partadj+}
        I bought it for my {kin} , who finds it {gadj+}
        the {thing} arrived on {day} and {vp+:s}
        compared with my old one , this {thing} is {gadj+}
        """),
    "kin": words("son daughter mother uncle niece nephew brother husband wife grandson aunt"),
    "neutral": lines("""
        the {thing} comes in {number} colors .
        it weighs about {number} ounces and has a cable .
        I ordered it on {day} and chose the blue one .
        """),
}
PRODUCT_GROUPS = {
    "part": (
        words("""
            battery screen zipper handle lid motor charger buttons* stitching~ strap hinge fabric~ switch wheels*
            cable remote_control sound_quality~ software~ seams* blade filter display
            """),
        words("""
            solid sturdy reliable smooth responsive excellent tough superb flawless well-made easy_to_use bright
            """),
        words("flimsy unreliable broken loose wobbly useless faulty weak unresponsive scratched crooked dim"),
    ),
    "help": (
        words("instructions* packaging~ warranty customer_support~ delivery price manual setup"),
        words("clear simple generous prompt excellent helpful reasonable"),
        words("confusing wasteful worthless misleading useless ridiculous baffling"),
    ),
}

HOTEL = {
    "thing": words("""
        hotel guesthouse resort hostel inn bed_and_breakfast motel lodge apartment suite spa campsite cottage
        villa
        """),
    "who": words("guest traveler backpacker honeymooner visitor business_traveler light_sleeper"),
    "anypart": words("""
        room bed shower pool lobby breakfast view elevator towels* staff~ garden parking~ balcony wallpaper~
        """),
    "gadj+": words("""
        spotless peaceful luxurious comfortable cozy restful spacious immaculate hospitable tranquil secluded
        """),
    "gadj-": words("filthy noisy shabby damp overpriced smelly cramped run-down unsafe moldy grubby inhospitable"),
    "vp+": phrases("""
        feel like home; pamper its guests; look out over the sea; spoil you for anywhere else; offer real rest
        """),
    "vp-": phrases("""
        smell of mildew; crawl with insects; charge extra for everything; keep you awake all night; look nothing
        like the pictures; need a good scrub; ignore complaints
        """),
    "ivp+": phrases("slept like a baby; extended our stay; cried when we left; have booked again for next summer"),
    "ivp-": phrases("""
        did not sleep a wink; checked out early; slept in my coat; found hair in the bath; complained twice
        """),
    "clause": lines("""
        we stayed {number} nights and the {roomthing} [was|were] {roomthingadj+}
        from our window we could see {view+}
        the walls were {wall+} and the {staff} [was|were] {staffadj+}
        """),
    "view+": phrases("the whole bay; mountains at sunrise; a garden full of roses; boats coming home; the stars"),
    "view-": phrases("a row of dumpsters; a brick wall; the parking lot; somebody else 's bathroom; a building site"),
    "wall+": words("thick spotless freshly_painted bright"),
    "wall-": words("paper-thin stained peeling damp"),
    "neutral": lines("""
        check-in is at {number} and breakfast is served from seven .
        the hotel is {number} minutes from the station .
        our room was on the {ordinal} floor .
        """),
}
HOTEL_GROUPS = {
    "roomthing": (
        words("""
            room bed pillows* bathroom shower pool towels* balcony lobby mattress sheets* garden carpet sauna
            curtains*
            """),
        words("spotless comfortable spacious immaculate bright soft inviting gorgeous fresh luxurious"),
        words("filthy lumpy tiny stained broken moldy damp freezing grimy threadbare smelly dusty"),
    ),
    "staff": (
        words("staff~ receptionist manager porter housekeepers* concierge owners* night_clerk"),
        words("welcoming courteous helpful attentive charming kind efficient obliging"),
        words("rude unhelpful indifferent hostile lazy absent unfriendly dishonest"),
    ),
}

GAME = {
    "thing": words("""
        game video_game board_game puzzle_game shooter platformer card_game strategy_game racing_game
        role-playing_game expansion app simulator mobile_game arcade_game
        """),
    "who": words("gamer player beginner puzzle_fan speedrunner casual_player"),
    "anypart": words("""
        controls* graphics* tutorial soundtrack multiplayer~ boss_fights* loading_screens* levels* story rulebook
        """),
    "gadj+": words("addictive absorbing challenging inventive fair immersive playable polished exciting colorful"),
    "gadj-": words("buggy repetitive unplayable grindy unfair laggy clunky broken unbalanced buried_in_ads"),
    "vp+": phrases("""
        keep you up until dawn; run without a hitch; reward cleverness; teach its rules with ease; offer endless
        replays; make losing fun
        """),
    "vp-": phrases("""
        crash every ten minutes; hide the fun behind a paywall; punish curiosity; freeze at the worst moments; nag
        you for money; repeat the same fight forever
        """),
    "ivp+": phrases("played until sunrise; finished it twice; forgot to eat; taught it to the whole family"),
    "ivp-": phrases("deleted it; threw the controller across the room; gave up at level three; sold it the next day"),
    "neutral": lines("""
        the game supports up to {number} players .
        there are {number} levels and a map editor .
        a round takes about {number} minutes .
        """),
}
GAME_GROUPS = {
    "play": (
        words("controls* combat~ puzzles* levels* boss_fights* gameplay~ missions* rules* difficulty~ camera"),
        words("responsive clever fair inventive satisfying smooth intuitive balanced"),
        words("sluggish unfair repetitive broken clumsy frustrating pointless confusing"),
    ),
    "look": (
        words("graphics* soundtrack animation~ world voice_acting~ artwork~ menus* design"),
        words("gorgeous charming detailed striking atmospheric colorful crisp"),
        words("dated ugly glitchy bland grating cluttered blurry"),
    ),
}

SERVICE = {
    "thing": words("""
        service company bank clinic salon garage airline gym dentist website helpline post_office call_center
        repair_shop insurance_company taxi_firm moving_company laundry pharmacy nursery vet
        """),
    "who": words("customer client patient subscriber caller pensioner"),
    "anypart": words("""
        staff~ fees* website waiting_room paperwork~ receptionist technician app invoice opening_hours*
        """),
    "gadj+": words("""
        prompt courteous trustworthy efficient professional transparent fair considerate knowledgeable friendly
        """),
    "gadj-": words("""
        unprofessional slow rude dishonest incompetent expensive bureaucratic unreliable deceitful unhelpful
        """),
    "vp+": phrases("""
        answer at the first ring; keep its promises; go the extra mile; put the customer first; fix it the same
        day; explain everything clearly; charge a fair price
        """),
    "vp-": phrases("""
        keep you on hold for an hour; lose your paperwork; invent new fees; blame everyone else; never call back;
        treat you like a nuisance; overcharge; hide behind small print
        """),
    "ivp+": phrases("was treated like royalty; recommended them to my whole street; was in and out in ten minutes"),
    "ivp-": phrases("switched to a rival; spent an hour on hold; filed a complaint; never got an answer"),
    "neutral": lines("""
        the office is open from nine to five on {day} .
        you need an account number and a form .
        they have {number} branches in {city} .
        """),
}
SERVICE_GROUPS = {
    "staff": (
        words("staff~ receptionist technician mechanic manager drivers* advisers* operator nurse hairdresser"),
        words("polite competent patient helpful knowledgeable friendly honest quick thorough"),
        words("rude incompetent indifferent careless unhelpful arrogant late clueless dishonest"),
    ),
    "thingy": (
        words("""
            website prices* fees* booking_system communication~ contract paperwork~ app waiting_room response
            """),
        words("clear fair simple reasonable efficient painless excellent"),
        words("confusing outrageous misleading endless hopeless broken absurd shocking"),
    ),
}

TRAVEL = {
    "thing": words("""
        trip cruise tour flight holiday vacation beach city island train_journey museum park hike safari road_trip
        ferry_ride village market zoo castle ski_resort
        """),
    "who": words("tourist traveler hiker visitor sightseer passenger"),
    "anypart": words("scenery~ guide weather~ crowds* beaches* food~ luggage~ seats* queue gift_shop coach harbor"),
    "gadj+": words("""
        scenic breathtaking unspoiled idyllic picturesque sunny peaceful adventurous restful spectacular
        """),
    "gadj-": words("crowded dirty exhausting touristy chaotic overpriced dangerous cramped grim stressful"),
    "vp+": phrases("""
        take your breath away; blow the cobwebs out; fill the camera with wonders; run exactly on time; make you
        want to move there
        """),
    "vp-": phrases("""
        herd you like cattle; lose your luggage; leave three hours late; rush past everything worth seeing; swarm
        with pickpockets; smell of diesel
        """),
    "ivp+": phrases("never wanted to come home; took a thousand pictures; swam every morning; slept under the stars"),
    "ivp-": phrases("""
        was seasick for a week; spent the night in the terminal; got sunburned and robbed; lost a suitcase
        """),
    "neutral": lines("""
        the ferry leaves at noon on {day} .
        the walk from the station takes {number} minutes .
        we changed trains in {city} and went on to {city} .
        """),
}
TRAVEL_GROUPS = {
    "place": (
        words("""
            scenery~ beaches* streets* gardens* coastline old_town views* trails* harbor sunset weather~
            countryside
            """),
        words("glorious breathtaking clean unspoiled lovely magnificent majestic tranquil"),
        words("littered overcrowded disappointing dreary polluted dull gray ruined"),
    ),
    "staff": (
        words("guide crew~ pilot locals* organization~ driver timetable transfers* seats*"),
        words("friendly knowledgeable excellent reliable superb faultless"),
        words("rude hopeless unreliable terrible chaotic useless uncomfortable"),
    ),
}

SPORT = {
    "thing": words("""
        match game season race tournament final fight derby championship team performance contest coach stadium
        marathon comeback training_session transfer
        """),
    "who": words("fan supporter spectator season-ticket_holder commentator neutral"),
    "anypart": words("""
        defense~ referee crowd goalkeeper second_half tactics* striker pitch penalty_shootout commentary~ kit
        """),
    "gadj+": words("thrilling heroic skillful disciplined spirited unstoppable dominant tireless fearless sporting"),
    "gadj-": words("""
        sluggish toothless undisciplined spineless shambolic disorganized gutless one-sided scrappy dirty lifeless
        """),
    "vp+": phrases("""
        keep the crowd on its feet; go down to the wire; show real fighting spirit; silence the doubters; attack
        with flair; deserve a place in history
        """),
    "vp-": phrases("""
        give the ball away; throw away a lead; embarrass the fans; crumble under pressure; run out of ideas; send
        the crowd home early; surrender without a fight
        """),
    "ivp+": phrases("shouted myself hoarse; hugged a stranger in the stands; will tell my grandchildren about it"),
    "ivp-": phrases("left at half time; switched it off; handed back my season ticket; booed with the rest"),
    "neutral": lines("""
        the match kicks off at three on {day} .
        the team finished {ordinal} in the table .
        {name} will start in goal against {city} .
        """),
}
SPORT_GROUPS = {
    "play": (
        words("""
            defense~ passing~ midfield tactics* attack teamwork~ finishing~ footwork~ goalkeeping~ strikers*
            captain
            """),
        words("superb brilliant disciplined clinical solid magnificent inspired tireless"),
        words("woeful sloppy hopeless shambolic clueless feeble lazy naive"),
    ),
    "around": (
        words("crowd referee atmosphere commentary~ stadium officials* organization~ fans*"),
        words("wonderful fair electric excellent generous marvelous"),
        words("hostile biased shocking dismal poisonous disgraceful"),
    ),
}

WORK = {
    "thing": words("""
        job internship meeting office course training_day conference workshop presentation lecture project
        interview manager workplace report seminar placement class
        """),
    "who": words("employee trainee student intern freelancer newcomer delegate"),
    "anypart": words("""
        salary boss coworkers* hours* pension commute coffee~ slides* handouts* paperwork~ schedule canteen
        """),
    "gadj+": words("""
        rewarding stimulating supportive fulfilling well-paid useful motivating flexible secure fair instructive
        """),
    "gadj-": words("""
        stressful thankless degrading badly_paid toxic exhausting demoralizing unfair chaotic soul-destroying
        """),
    "vp+": phrases("""
        bring out the best in people; teach you something every day; pay a decent wage; treat people as adults;
        make Mondays bearable; open doors
        """),
    "vp-": phrases("""
        grind you down; reward the lazy; eat up your weekends; treat people like furniture; lead nowhere; bury
        everyone in paperwork; belong in an email
        """),
    "ivp+": phrases("""
        learned more in a week than in a year at college; signed up for another; got a raise; felt valued
        """),
    "ivp-": phrases("quit within a month; cried in the car park; updated my résumé; doodled for three hours"),
    "neutral": lines("""
        the meeting is on {day} at {number} .
        the course lasts {number} weeks and ends with a test .
        I work with {number} people on the {ordinal} floor .
        """),
}
WORK_GROUPS = {
    "people": (
        words("boss coworkers* colleagues* manager management~ instructor speaker team lecturers* mentor"),
        words("supportive generous inspiring fair encouraging brilliant patient approachable"),
        words("petty lazy two-faced incompetent bullying rude vindictive clueless"),
    ),
    "terms": (
        words("pay~ hours* commute training~ benefits* schedule slides* handouts* workload office"),
        words("decent flexible reasonable generous excellent useful manageable"),
        words("pitiful brutal insulting endless inadequate ridiculous chaotic crushing"),
    ),
}

# Name: (share of the lines, own symbols, groups of parts, parents from general to special)
DOMAINS = {
    "film": (46, FILM, FILM_GROUPS, (COMMON, CULTURE)),
    "book": (10, BOOK, BOOK_GROUPS, (COMMON, CULTURE)),
    "music": (9, MUSIC, MUSIC_GROUPS, (COMMON, CULTURE)),
    "stage": (9, STAGE, STAGE_GROUPS, (COMMON, CULTURE)),
    "restaurant": (6, RESTAURANT, RESTAURANT_GROUPS, (COMMON,)),
    "product": (5, PRODUCT, PRODUCT_GROUPS, (COMMON,)),
    "hotel": (3, HOTEL, HOTEL_GROUPS, (COMMON,)),
    "game": (3, GAME, GAME_GROUPS, (COMMON,)),
    "service": (3, SERVICE, SERVICE_GROUPS, (COMMON,)),
    "travel": (2, TRAVEL, TRAVEL_GROUPS, (COMMON,)),
    "sport": (2, SPORT, SPORT_GROUPS, (COMMON,)),
    "work": (2, WORK, WORK_GROUPS, (COMMON,)),
}

# Symbols of whole sentences and their share of the lines.
KINDS = {"frag": 15, "clause": 19, "sent": 19, "comp": 40, "neutral": 7}

# --------------------------------------------------------------------------------------
# English inflection
# --------------------------------------------------------------------------------------

IRREGULAR_PAST = {
    "be": "was",
    "beat": "beat",
    "bite": "bit",
    "break": "broke",
    "breathe": "breathed",
    "bring": "brought",
    "build": "built",
    "bury": "buried",
    "catch": "caught",
    "choke": "choked",
    "cut": "cut",
    "dig": "dug",
    "do": "did",
    "drown": "drowned",
    "eat": "ate",
    "fall": "fell",
    "feed": "fed",
    "feel": "felt",
    "find": "found",
    "forgive": "forgave",
    "get": "got",
    "give": "gave",
    "go": "went",
    "have": "had",
    "hear": "heard",
    "hide": "hid",
    "hit": "hit",
    "hold": "held",
    "keep": "kept",
    "know": "knew",
    "learn": "learned",
    "leave": "left",
    "lose": "lost",
    "make": "made",
    "ring": "rang",
    "rob": "robbed",
    "run": "ran",
    "say": "said",
    "see": "saw",
    "sell": "sold",
    "set": "set",
    "sing": "sang",
    "sink": "sank",
    "sit": "sat",
    "speak": "spoke",
    "steal": "stole",
    "swap": "swapped",
    "swim": "swam",
    "take": "took",
    "teach": "taught",
    "tell": "told",
    "throw": "threw",
    "travel": "traveled",
    "wake": "woke",
    "win": "won",
    "write": "wrote",
    "fake": "faked",
}
IRREGULAR_PLURAL = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "wife": "wives",
    "thief": "thieves",
    "person": "people",
    "salesman": "salesmen",
    "postman": "postmen",
    "policeman": "policemen",
    "stuntman": "stuntmen",
    "weatherman": "weathermen",
    "fisherman": "fishermen",
    "witch": "witches",
    "series": "series",
    "miniseries": "miniseries",
    "fantasy series": "fantasy series",
    "kids ' movie": "kids ' movies",
    "one-man show": "one-man shows",
    "couch potato": "couch potatoes",
    "superhero": "superheroes",
    "hitman": "hitmen",
    "gunslinger": "gunslingers",
}


def third_person(verb: str) -> str:
    """Inflect a base verb for a singular subject."""
    special = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    if verb in special:
        return special[verb]
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(s|x|z|ch|sh)$", verb) else "s")


def past_tense(verb: str) -> str:
    """Inflect a base verb for the simple past."""
    if verb in IRREGULAR_PAST:
        return IRREGULAR_PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ied"
    return verb + "ed"


def inflect_verbs(phrase: str, inflect) -> str:
    """Inflect the first word of a verb phrase and every further word marked with ``^``."""
    tokens = phrase.split(" ")
    position = 1 if tokens[0] in ("never", "barely", "not") else 0
    tokens[position] = "^" + tokens[position].lstrip("^")
    return " ".join(inflect(token[1:]) if token.startswith("^") else token for token in tokens)


def plural(noun: str) -> str:
    """Form the plural of a noun phrase; in "set of pans" the head comes first."""
    head, of, rest = noun.partition(" of ")
    head, to, tail = head.partition("-to-")
    if noun.startswith("bed and "):
        head, of, rest = noun, "", ""
    if head in IRREGULAR_PLURAL:
        result = IRREGULAR_PLURAL[head]
    else:
        stem, _, last = head.rpartition(" ")
        if last in IRREGULAR_PLURAL:
            last = IRREGULAR_PLURAL[last]
        elif re.search(r"[^aeiou]y$", last):
            last = last[:-1] + "ies"
        else:
            last += "es" if re.search(r"(s|x|z|ch|sh)$", last) else "s"
        result = f"{stem} {last}".strip()
    return result + to + tail + of + rest


# --------------------------------------------------------------------------------------
# Expansion
# --------------------------------------------------------------------------------------

SLOT = re.compile(r"\{(\w+)([+-]?)(?::(\w))?\}")
CHOICE = re.compile(r"<([^<>]*)>")
AGREE = re.compile(r"^\[(.*)\|(.*)\]$")


def grammar_of(own: dict[str, list[str]], groups: dict, parents: tuple) -> dict[str, list[str]]:
    """Merge a domain with its parents and add the symbols of its groups of parts."""
    merged: dict[str, list[str]] = {}
    for source in (*parents, own):
        for symbol, entries in source.items():
            merged.setdefault(symbol, []).extend(entries)
    merged["thing"] = list(own["thing"])
    merged["maker"] = list(own.get("maker", []))
    merged["anypart"] = list(own["anypart"])
    merged["who"] = list(own["who"])
    merged["partnp"], merged["partcl"] = [], []
    for name, (nouns, praise, blame) in groups.items():
        merged.setdefault(name, nouns)
        merged[f"{name}part"] = nouns
        merged[f"{name}adj+"], merged[f"{name}adj-"] = praise, blame
        noun, adjective = f"{{{name}part}}", f"{{{name}adj+}}"
        merged["partnp"] += [f"@ {adjective} {noun}", f"@ {adjective} , {adjective} {noun}"]
        merged["partnp"] += [f"@ {{deg+}} {adjective} {noun}", f"@ {adjective} {noun}"]
        merged["partcl"] += [
            f"the {noun} {{cop}} {adjective}",
            f"the {noun} {{cop}} {{deg+}} {adjective}",
            f"the {noun} [is|are] {adjective} and {adjective}",
            f"the {noun} [is|are] <never/not {{notdeg}}/rarely/not> {{{name}adj-}}",
            f"the {noun} [is|are] {adjective} {{whole}}",
            f"the {noun} could not be more {adjective}",
            f"I found the {noun} {adjective}",
            f"the {noun} [was|were] {{soft}} {{{name}adj-}} but {{often}} {adjective}",
            f"the {noun} [seems|seem] more {adjective} than {{{name}adj-}}",
            f"{{speaker}} thought the {noun} {adjective}",
        ]
    return merged


class Writer:
    """Expand the symbols of one domain, using every alternative about equally often."""

    def __init__(self, grammar: dict[str, list[str]], rng: random.Random) -> None:
        self.grammar = grammar
        self.rng = rng
        self.bags: dict[tuple[str, int, str], list[str]] = {}

    def draw(self, symbol: str, polarity: int, form: str = "") -> str:
        """Take the next alternative of a symbol from a shuffled bag."""
        bag = self.bags.setdefault((symbol, polarity, form), [])
        if not bag:
            signed = symbol + ("+" if polarity > 0 else "-")
            # Lists with a sign are used for that polarity, plain lists for both.
            bag.extend(dict.fromkeys(self.grammar.get(symbol, []) + self.grammar.get(signed, [])))
            if form == "m":
                bag[:] = [entry for entry in bag if entry.endswith("~")]
            if not bag:
                raise KeyError(f"nothing to write for {symbol} {polarity} {form}")
            self.rng.shuffle(bag)
        return bag.pop()

    def expand(self, text: str, polarity: int) -> str:
        """Expand choices, then slots from left to right."""
        while match := CHOICE.search(text):
            options = match[1].split("/")
            text = text[: match.start()] + self.rng.choice(options) + text[match.end() :]
        return SLOT.sub(lambda match: self.fill(match[1], match[2], match[3] or "", polarity), text)

    def fill(self, symbol: str, sign: str, form: str, polarity: int) -> str:
        """Expand one slot and inflect the result."""
        inner = -polarity if sign == "-" else polarity
        entry = self.draw(symbol, inner, form)
        if self.is_part(symbol) and entry[-1] not in "*~":
            entry += "%s"
        entry = entry.replace("*", "%p").replace("~", "%m")
        result = self.expand(entry, inner)
        if form == "s":
            return inflect_verbs(result, third_person)
        if form == "d":
            return inflect_verbs(result, past_tense)
        if form == "t":
            return re.sub(r"\bits\b", "their", result.replace("itself", "themselves")).replace("^", "")
        if form == "p":
            return plural(result)
        return result.replace("^", "")

    @staticmethod
    def is_part(symbol: str) -> bool:
        """Whether the nouns of a symbol steer agreement."""
        return symbol.endswith("part") or symbol in ("food", "staff", "roomthing", "part")


# --------------------------------------------------------------------------------------
# From tokens to a line of text
# --------------------------------------------------------------------------------------

VOWEL_SOUND = re.compile(r"^(?:[aeio]|u(?!ni[fqotv]|s[eu]|til)|hour|honest|honor|heir|eight)", re.IGNORECASE)
CONSONANT_SOUND = re.compile(r"^(?:one\b|once|eu|ukule|one-)", re.IGNORECASE)
SMALL_WORDS = set(
    """
    this that with from have been more than what when where which while they them there were will would could your
    like even into only most some such much just very does each every about after their other than then because
    though never also still over both neither nothing
    """.split()
)
TURNS = {"but", "yet", "although", "though", "while", "despite", "still", "if", "because", "since", "which"}


def resolve(text: str) -> list[str]:
    """Settle agreement, optional articles and a/an; return the tokens without markers."""
    tokens = text.split()
    number = "s"
    out: list[str] = []
    for index, token in enumerate(tokens):
        if token == "@":
            marks = [later[-1] for later in tokens[index:] if "%" in later]
            if marks and marks[0] == "s":
                out.append("a")
            continue
        if "%" in token:
            number = token[-1]
            token = token[: token.index("%")]
        out.append(token)
        if match := AGREE.match(token):
            out[-1] = match[2] if number == "p" else match[1]
    for index, token in enumerate(out[:-1]):
        if token.lower() == "a" and VOWEL_SOUND.match(out[index + 1]):
            if not CONSONANT_SOUND.match(out[index + 1]):
                out[index] = token + "n"
    return out


def repetitive(tokens: list[str]) -> bool:
    """Whether a longer content word occurs twice or too many turns of argument pile up."""
    if sum(token.lower() in TURNS for token in tokens) > 2 or tokens.count("but") > 1:
        return True
    seen: set[str] = set()
    for token in tokens:
        key = token.lower()
        if len(key) < 4 or key in SMALL_WORDS:
            continue
        stem = key[:-1] if key.endswith("s") else key
        if stem in seen:
            return True
        seen.add(stem)
    return False


def tokenised(tokens: list[str]) -> str:
    """Lower case, with punctuation and contractions set off by spaces."""
    return " ".join(tokens).lower()


def ordinary(tokens: list[str]) -> str:
    """Usual spelling: sentence capitals and punctuation closed up."""
    text = " ".join(tokens)
    text = re.sub(r" (n't|'s|'m|'re|'ll|'ve)\b", r"\1", text)
    text = re.sub(r"(\w) ' (\w)", r"\1' \2", text)
    text = re.sub(r" ([,.;:!?]|\.\.\.)", r"\1", text)
    pieces = text.split('"')
    if len(pieces) % 2:
        pieces[1::2] = [piece.strip() for piece in pieces[1::2]]
        text = '"'.join(pieces)
        text = re.sub(r'(?<=\w)" ,', '",', text)
    text = text.replace('"' + " .", '".').replace('"' + " ,", '",').replace('" :', '":').replace('" ;', '";')
    return re.sub(r'(^["]?|[.!?] "?)([a-z])', lambda match: match[1] + match[2].upper(), text)


def contract(tokens: list[str], rng: random.Random) -> list[str]:
    """Contract some common pairs, as informal reviews do, written as separate tokens."""
    if rng.random() < 0.5:
        return tokens
    pairs = {
        ("it", "is"): ["it", "'s"],
        ("I", "have"): ["I", "'ve"],
        ("is", "not"): ["is", "n't"],
        ("does", "not"): ["does", "n't"],
        ("do", "not"): ["do", "n't"],
        ("could", "not"): ["could", "n't"],
        ("would", "not"): ["would", "n't"],
        ("you", "will"): ["you", "'ll"],
        ("can", "not"): ["ca", "n't"],
        ("that", "is"): ["that", "'s"],
        ("I", "am"): ["I", "'m"],
        ("did", "not"): ["did", "n't"],
    }
    out: list[str] = []
    index = 0
    while index < len(tokens):
        pair = tuple(tokens[index : index + 2])
        # "as good as it is ." and "nothing about it is bad" must keep the full verb.
        ends = index + 2 >= len(tokens) or not tokens[index + 2][0].isalpha()
        object_next = pair[:1] == ("it",) and out and out[-1] in ("about", "of", "for", "with", "than")
        if pair in pairs and not ends and not object_next:
            out += pairs[pair]
            index += 2
        else:
            out.append(tokens[index])
            index += 1
    return out


def make_line(writers: dict[str, Writer], rng: random.Random) -> str | None:
    """Write one line, or None when the draw came out repetitive or badly sized."""
    domain = rng.choices(list(DOMAINS), [share for share, *_ in DOMAINS.values()])[0]
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    text = writers[domain].expand("{" + kind + "}", rng.choice((-1, 1)))
    tokens = resolve(text)
    count = sum(token[0].isalnum() for token in tokens)
    if not 2 <= count <= 35 or repetitive(tokens):
        return None
    if kind in ("frag", "clause") and rng.random() < 0.75 and tokens[-1] not in ".?!...":
        tokens.append(rng.choices((".", "!", "..."), (16, 1, 1))[0])
    tokens = contract(tokens, rng)
    return tokenised(tokens) if rng.random() < 0.5 else ordinary(tokens)


def make_lines(count: int, seed: int) -> list[str]:
    """Write ``count`` lines that differ in more than case and punctuation."""
    rng = random.Random(seed)
    writers = {
        name: Writer(grammar_of(own, groups, parents), rng) for name, (_, own, groups, parents) in DOMAINS.items()
    }
    seen: set[str] = set()
    result: list[str] = []
    while len(result) < count:
        line = make_line(writers, rng)
        key = re.sub(r"[^a-z0-9]", "", line.lower()) if line else ""
        if line and key not in seen:
            seen.add(key)
            result.append(line)
    return result


def main() -> None:
    """Write the text file named on the command line."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Write unlabelled opinion sentences, one per line.")
    parser.add_argument("--output", type=Path, default=root / "weights" / "text" / "train.txt")
    parser.add_argument("--count", type=int, default=14_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(make_lines(arguments.count, arguments.seed)) + "\n"
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
