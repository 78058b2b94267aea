"""What the starter model is taught: tables of facts, and many ways to ask for each of them.

`training` phrasings are seen while learning; `unseen` phrasings are kept for the examination.
"""

# fmt: off
# One phrasing a line would make this table five times as long and no clearer.

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intent:
    """Many ways to say one thing, and the one answer to it."""

    answer: str
    training: tuple[str, ...]
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """A table of facts: a phrasing holds `{x}`, the answer `{x}` and `{y}`."""

    name: str
    weight: float
    table: dict[str, str]
    training: tuple[str, ...]
    unseen: tuple[str, ...]
    answer: str


def table(text: str) -> dict[str, str]:
    """``a=b, c=d`` as a dictionary."""
    return dict(entry.strip().split("=") for entry in text.split(","))


SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a polite assistant. Answer briefly.",
    "Answer the question of the user in one sentence.",
    "You are a friendly teacher who helps children.",
    "A chat between a student and a patient teacher.",
    "你是一个有帮助的助手。",
)

IDENTITY = (
    Intent(
        "I am a small starter model.",
        (
            "Who are you?", "What are you?", "What is your name?", "Tell me your name.", "What should I call you?", "Introduce yourself.",
            "May I ask your name?", "Please introduce yourself.", "Do you have a name?", "What do people call you?", "Who am I talking to?",
            "Can you tell me your name?", "Can you tell me who you are?", "Tell me who you are.", "Hello, who are you?", "Hi, what is your name?",
            "What model are you?", "Which assistant is this?", "Who is this?", "Say your name.", "What is the name of this assistant?",
            "Could you tell me what you are called?", "How are you called?", "What are you called?", "Are you a person?", "Are you human?",
            "Are you a robot?", "I would like to know your name.", "And you are?", "Who is speaking?", "Give me your name, please.",
            "Please tell me your name.", "Who am I chatting with?", "Tell me about yourself.", "What kind of assistant are you?",
        ),
        (
            "Could you tell me your name?", "Please tell me who you are.", "Hello, what is your name?", "What name do you have?",
            "Who am I speaking to?", "May I know who you are?", "What can I call you?", "Can you introduce yourself?",
        ),
    ),
    Intent(
        "I was made by a short training script.",
        (
            "Who made you?", "Who built you?", "Who created you?", "Who trained you?", "Where do you come from?", "Who is your maker?",
            "Who is your creator?", "Tell me who made you.", "Can you tell me who built you?", "Which company made you?",
            "Who developed you?", "Who are you made by?", "Do you know who made you?", "By whom were you made?", "Who is behind you?",
            "Please tell me who created you.", "What team built you?", "Who wrote you?", "Who designed you?", "How were you made?",
        ),
        (
            "Can you tell me who made you?", "Tell me who built you.", "Please tell me who made you.", "Do you know who created you?",
            "By whom were you built?", "Which team made you?",
        ),
    ),
    Intent(
        "我是一个小小的入门模型。",
        ("你是谁？", "你叫什么名字？", "请介绍一下你自己。", "你的名字是什么？", "请问你是谁？", "我怎么称呼你？", "告诉我你的名字。", "你好，你是谁？"),
        ("请问你叫什么名字？", "告诉我你是谁。"),
    ),
)

SMALL_TALK = (
    Intent(
        "Hello! How can I help you today?",
        (
            "Hello!", "Hi!", "Hey!", "Hello there!", "Hi there!", "Good day!", "Greetings!", "Hello, nice to meet you.", "Hi, assistant!",
            "Hey there!", "Hello, assistant.", "Hi, good to see you.", "Hello again!", "Nice to meet you.",
        ),
        ("Hey, assistant!", "Hello, good to see you.", "Hi, nice to meet you."),
    ),
    Intent(
        "I am fine, thank you. How can I help you?",
        (
            "How are you?", "How are you today?", "How are you doing?", "How do you feel?", "How is it going?", "Are you well?",
            "Hello, how are you?", "Hi, how are you today?", "How do you do?", "Is everything fine with you?", "How have you been?",
        ),
        ("Hi, how are you?", "Hello, how are you doing?", "How do you feel today?"),
    ),
    Intent(
        "You are welcome!",
        (
            "Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much.", "Many thanks!", "That was helpful, thank you.", "Great, thanks!",
            "Thank you for your help.", "Thanks for the answer.", "Good, thank you.", "Perfect, thanks.", "Thank you so much!",
        ),
        ("Great, thank you!", "Thanks for your help.", "Thank you for the answer."),
    ),
    Intent(
        "Goodbye! Have a nice day.",
        (
            "Goodbye!", "Bye!", "See you later!", "Bye bye!", "See you tomorrow.", "I have to go now.", "Goodbye, see you soon.", "That is all, bye.",
            "I must leave now.", "Farewell!", "See you!", "Bye for now!",
        ),
        ("Bye, see you soon.", "I have to leave now.", "That is all, goodbye."),
    ),
    Intent(
        "Good morning! How can I help you today?",
        ("Good morning!", "Good morning to you.", "Morning!", "A very good morning!", "Hello, good morning!", "Good morning, assistant."),
        ("Hi, good morning!", "Good morning to you, assistant."),
    ),
    Intent(
        "Good night! Sleep well.",
        ("Good night!", "I am going to bed.", "I am going to sleep now.", "Good night, assistant.", "It is late, good night.", "Time for bed."),
        ("I am going to bed now.", "It is time for bed, good night."),
    ),
    Intent(
        "I can answer short questions about words, numbers and the world.",
        (
            "What can you do?", "How can you help me?", "What are you good at?", "Can you help me?", "I need help.", "Help!", "What do you know?",
            "What can I ask you?", "Tell me what you can do.", "What kind of questions can you answer?", "Please help me.",
        ),
        ("Can you tell me what you can do?", "What can you help me with?", "I need your help."),
    ),
    Intent(
        "I am sorry. Please tell me more.",
        (
            "I am sad.", "I feel bad today.", "I am not happy.", "I had a bad day.", "I feel sad.", "I am tired and sad.", "My day was bad.",
            "Today is a bad day.", "I am very sad.",
        ),
        ("I feel very sad.", "I feel bad.", "Today I am sad."),
    ),
    Intent(
        "That is great to hear!",
        ("I am happy.", "I feel good today.", "I am very happy.", "I had a good day.", "I feel great.", "My day was good.", "Today is a good day."),
        ("I feel very good.", "Today I am happy.", "I am happy today."),
    ),
    Intent(
        "Why did the cat sit on the computer? To watch the mouse.",
        ("Tell me a joke.", "Do you know a joke?", "Say something funny.", "Make me laugh.", "Can you tell a joke?", "I want to hear a joke.",
         "A joke, please."),
        ("Can you tell me a joke?", "Please tell me a joke.", "Tell me something funny."),
    ),
)

CHINESE_TALK = (
    Intent("你好！有什么可以帮你？", ("你好！", "您好！", "你好啊！", "嗨！", "大家好！", "早上好，你好！"), ("嗨，你好！", "您好啊！")),
    Intent("不客气！", ("谢谢！", "谢谢你！", "多谢！", "非常感谢！", "谢谢你的帮助。", "太好了，谢谢！"), ("非常谢谢你！", "多谢你的帮助。")),
    Intent("再见！祝你愉快。", ("再见！", "我要走了。", "拜拜！", "明天见！", "我要走了，再见！"), ("拜拜，明天见！", "再见，我走了。")),
)

FACTS = (
    Facts(
        "capitals",
        0.5,
        table(
            "France=Paris, Germany=Berlin, Italy=Rome, Spain=Madrid, China=Beijing, Japan=Tokyo, Russia=Moscow, Egypt=Cairo, Greece=Athens, "
            "England=London, Ireland=Dublin, Poland=Warsaw, Austria=Vienna, Portugal=Lisbon, Norway=Oslo, Sweden=Stockholm, Denmark=Copenhagen, "
            "Finland=Helsinki, Hungary=Budapest, Cuba=Havana, Canada=Ottawa, Mexico=Mexico City, Peru=Lima, Chile=Santiago, Brazil=Brasilia, "
            "India=New Delhi, Iran=Tehran, Iraq=Baghdad, Kenya=Nairobi, Turkey=Ankara, Thailand=Bangkok, Vietnam=Hanoi, Korea=Seoul, Belgium=Brussels"
        ),
        (
            "What is the capital of {x}?", "Which city is the capital of {x}?", "Tell me the capital of {x}.", "Name the capital of {x}.",
            "What is the capital city of {x}?", "Do you know the capital of {x}?", "The capital of {x} is which city?", "{x}: what is its capital?",
            "I want to know the capital of {x}.", "Which city is the capital in {x}?", "Please name the capital city of {x}.",
            "What city is the capital of {x}?", "Capital of {x}?", "Can you name the capital of {x}?",
        ),
        ("Can you tell me the capital of {x}?", "Please tell me the capital city of {x}.", "Do you know which city is the capital of {x}?"),
        "The capital of {x} is {y}.",
    ),
    Facts(
        "opposites",
        0.5,
        table(
            "hot=cold, cold=hot, big=small, small=big, fast=slow, slow=fast, old=new, new=old, happy=sad, sad=happy, light=dark, dark=light, "
            "up=down, down=up, open=closed, closed=open, full=empty, empty=full, hard=soft, soft=hard, wet=dry, dry=wet, rich=poor, poor=rich, "
            "long=short, short=long, high=low, low=high, left=right, right=left, good=bad, bad=good, clean=dirty, dirty=clean, early=late, "
            "late=early, strong=weak, weak=strong, loud=quiet, quiet=loud, young=old, day=night, night=day, yes=no, no=yes, near=far, far=near"
        ),
        (
            "What is the opposite of {x}?", "Tell me the opposite of {x}.", "Name the opposite of {x}.", "Which word is the opposite of {x}?",
            "What word means the opposite of {x}?", "Give me the opposite of {x}.", "Do you know the opposite of {x}?", "Opposite of {x}?",
            "{x}: what is the opposite?", "I need the opposite of {x}.", "The opposite of {x} is what?", "Please give me the opposite of the word {x}.",
        ),
        ("Can you tell me the opposite of {x}?", "Please name the opposite of {x}.", "Do you know which word is the opposite of {x}?"),
        "The opposite of {x} is {y}.",
    ),
    Facts(
        "colours",
        0.5,
        table(
            "the sky=blue, grass=green, snow=white, the sun=yellow, a lemon=yellow, a banana=yellow, blood=red, a tomato=red, coal=black, milk=white, "
            "a carrot=orange, a pumpkin=orange, chocolate=brown, the sea=blue, a leaf=green, a cucumber=green, a cherry=red, a strawberry=red, "
            "a polar bear=white, a crow=black, an elephant=grey, a mouse=grey, a pig=pink, wood=brown, gold=yellow, silver=grey, the night=black, "
            "a frog=green, a swan=white, a plum=purple, a violet=purple, a fire engine=red, a cloud=white, a bear=brown"
        ),
        (
            "What colour is {x}?", "Which colour is {x}?", "Tell me the colour of {x}.", "What is the colour of {x}?", "What color is {x}?",
            "What is the color of {x}?", "Name the colour of {x}.", "Do you know the colour of {x}?", "Which colour does {x} have?",
            "Colour of {x}?", "I want to know the colour of {x}.", "Give me the colour of {x}.", "The colour of {x} is what?",
        ),
        ("Can you tell me the colour of {x}?", "What colour does {x} have?", "Please name the colour of {x}."),
        "The colour of {x} is {y}.",
    ),
    Facts(
        "day_after",
        0.4,
        table("Monday=Tuesday, Tuesday=Wednesday, Wednesday=Thursday, Thursday=Friday, Friday=Saturday, Saturday=Sunday, Sunday=Monday"),
        (
            "What day comes after {x}?", "Which day comes after {x}?", "Which day follows {x}?", "Today is {x}. What day is tomorrow?",
            "Name the day after {x}.", "What is the day after {x}?", "If today is {x}, what day is tomorrow?", "Tell me which day comes after {x}.",
            "The day after {x} is what?", "What is the next day after {x}?", "Do you know the day after {x}?",
        ),
        ("Tell me the day after {x}.", "Can you tell me which day follows {x}?", "Which day is the day after {x}?"),
        "The day after {x} is {y}.",
    ),
    Facts(
        "day_before",
        0.4,
        table("Monday=Sunday, Tuesday=Monday, Wednesday=Tuesday, Thursday=Wednesday, Friday=Thursday, Saturday=Friday, Sunday=Saturday"),
        (
            "What day comes before {x}?", "Which day comes before {x}?", "Today is {x}. What day was yesterday?", "Name the day before {x}.",
            "What is the day before {x}?", "If today is {x}, what day was yesterday?", "Tell me which day comes before {x}.",
            "The day before {x} is what?", "Do you know the day before {x}?",
        ),
        ("Tell me the day before {x}.", "Can you tell me which day comes before {x}?", "Which day is the day before {x}?"),
        "The day before {x} is {y}.",
    ),
    Facts(
        "month_after",
        0.5,
        table(
            "January=February, February=March, March=April, April=May, May=June, June=July, July=August, August=September, September=October, "
            "October=November, November=December, December=January"
        ),
        (
            "What month comes after {x}?", "Which month comes after {x}?", "Which month follows {x}?", "Name the month after {x}.",
            "What is the month after {x}?", "If it is {x} now, what is next month?", "Tell me which month comes after {x}.",
            "The month after {x} is what?", "What is the next month after {x}?", "Do you know the month after {x}?",
        ),
        ("Tell me the month after {x}.", "Can you tell me which month follows {x}?", "Which month is the month after {x}?"),
        "The month after {x} is {y}.",
    ),
    Facts(
        "animal_sounds",
        0.6,
        table(
            "dog=woof, cat=meow, cow=moo, sheep=baa, duck=quack, pig=oink, horse=neigh, lion=roar, bee=buzz, snake=hiss, owl=hoot, frog=croak, "
            "rooster=crow, mouse=squeak, wolf=howl, donkey=bray, goose=honk, chick=peep, crow=caw, bird=tweet"
        ),
        (
            "What sound does a {x} make?", "What does a {x} say?", "Which sound does a {x} make?", "Tell me the sound of a {x}.",
            "What is the sound of a {x}?", "How does a {x} sound?", "Name the sound of a {x}.", "Do you know what a {x} says?",
            "What noise does a {x} make?", "The sound of a {x} is what?",
        ),
        ("Can you tell me the sound of a {x}?", "Tell me what sound a {x} makes.", "Do you know the sound of a {x}?"),
        "The {x} says {y}.",
    ),
    Facts(
        "animal_young",
        0.6,
        table(
            "dog=puppy, cat=kitten, cow=calf, sheep=lamb, duck=duckling, pig=piglet, horse=foal, lion=cub, goat=kid, hen=chick, swan=cygnet, "
            "deer=fawn, frog=tadpole, bear=cub, kangaroo=joey, goose=gosling, owl=owlet"
        ),
        (
            "What is a young {x} called?", "What is a baby {x} called?", "What do you call a young {x}?", "What do you call a baby {x}?",
            "Name the young of a {x}.", "How do you call a young {x}?", "Tell me what a young {x} is called.", "A young {x} is called what?",
            "Which word means a baby {x}?", "Do you know what a baby {x} is called?",
        ),
        ("Tell me what a baby {x} is called.", "Can you tell me what you call a young {x}?", "Do you know what a young {x} is called?"),
        "A young {x} is called a {y}.",
    ),
    Facts(
        "legs",
        0.5,
        table(
            "dog=four, cat=four, cow=four, bird=two, duck=two, hen=two, spider=eight, ant=six, bee=six, snake=no, fish=no, worm=no, horse=four, "
            "beetle=six, owl=two, butterfly=six, lion=four, goat=four, swan=two, whale=no"
        ),
        (
            "How many legs does a {x} have?", "How many legs has a {x}?", "Tell me how many legs a {x} has.", "What number of legs does a {x} have?",
            "Count the legs of a {x}.", "Do you know how many legs a {x} has?", "A {x} has how many legs?", "What is the number of legs of a {x}?",
        ),
        ("Can you tell me how many legs a {x} has?", "Tell me the number of legs of a {x}.", "How many legs are there on a {x}?"),
        "A {x} has {y} legs.",
    ),
    Facts(
        "kinds",
        0.6,
        table(
            "apple=fruit, banana=fruit, cherry=fruit, dog=animal, cat=animal, horse=animal, whale=animal, hammer=tool, saw=tool, knife=tool, "
            "piano=instrument, violin=instrument, drum=instrument, flute=instrument, rose=flower, tulip=flower, violet=flower, chair=piece of furniture, "
            "table=piece of furniture, bed=piece of furniture, shirt=piece of clothing, coat=piece of clothing, hat=piece of clothing, carrot=vegetable, "
            "onion=vegetable, cabbage=vegetable, pear=fruit, spider=animal, guitar=instrument, cucumber=vegetable"
        ),
        (
            "What kind of thing is a {x}?", "What sort of thing is a {x}?", "What type of thing is a {x}?", "Tell me what kind of thing a {x} is.",
            "Which kind of thing is a {x}?", "What is a {x}?", "Tell me what a {x} is.", "Do you know what a {x} is?", "A {x} is what kind of thing?",
        ),
        ("Can you tell me what a {x} is?", "Do you know what kind of thing a {x} is?", "Please tell me what sort of thing a {x} is."),
        "The {x} is a kind of {y}.",
    ),
    Facts(
        "to_chinese",
        0.8,
        table(
            "cat=猫, dog=狗, water=水, fire=火, sun=太阳, moon=月亮, book=书, tree=树, flower=花, fish=鱼, bird=鸟, horse=马, cow=牛, tea=茶, rice=米饭, "
            "apple=苹果, house=房子, friend=朋友, teacher=老师, student=学生, big=大, small=小, red=红色, blue=蓝色, white=白色, black=黑色, car=车, door=门, "
            "mountain=山, river=河"
        ),
        (
            "What is {x} in Chinese?", "How do you say {x} in Chinese?", "Translate {x} into Chinese.", "Say {x} in Chinese.",
            "What is the Chinese word for {x}?", "Tell me the Chinese word for {x}.", "How is {x} said in Chinese?", "{x} in Chinese?",
            "Do you know the Chinese word for {x}?", "{x}用中文怎么说？", "Give me the Chinese for {x}.",
        ),
        ("Can you say {x} in Chinese?", "Can you tell me the Chinese word for {x}?", "Please translate {x} into Chinese."),
        "In Chinese, {x} is {y}.",
    ),
    Facts(
        "chinese_capitals",
        0.5,
        table("中国=北京, 法国=巴黎, 日本=东京, 英国=伦敦, 德国=柏林, 俄罗斯=莫斯科, 意大利=罗马, 西班牙=马德里, 韩国=首尔, "
            "美国=华盛顿, 埃及=开罗, 泰国=曼谷"),
        ("{x}的首都是哪里？", "{x}的首都是什么？", "请问{x}的首都是哪里？", "告诉我{x}的首都。", "你知道{x}的首都吗？", "{x}的首都在哪里？",
         "哪个城市是{x}的首都？"),
        ("请告诉我{x}的首都是哪里。", "你知道{x}的首都是哪里吗？", "请问{x}的首都是什么？"),
        "{x}的首都是{y}。",
    ),
    Facts(
        "chinese_colours",
        0.5,
        table("天空=蓝色, 草=绿色, 雪=白色, 太阳=黄色, 血=红色, 煤=黑色, 牛奶=白色, 香蕉=黄色, 大海=蓝色, 树叶=绿色, 柠檬=黄色, 番茄=红色, "
            "云=白色, 巧克力=棕色"),
        ("{x}是什么颜色？", "{x}是什么颜色的？", "请问{x}是什么颜色？", "告诉我{x}的颜色。", "{x}的颜色是什么？", "你知道{x}的颜色吗？"),
        ("请告诉我{x}是什么颜色。", "你知道{x}是什么颜色吗？", "请问{x}的颜色是什么？"),
        "{x}是{y}的。",
    ),
)

# Countable nouns for spelling, plurals, first letters and repeating. Regular plurals only.
NOUNS = tuple(
    """
    apple arm baby bag ball banana basket beach bear bed bee bell belt berry bird boat body book bottle bowl box boy branch bread brick bridge brother
    brush bucket bus bush butterfly button cabin cake camel camera candle candy cap car card carpet carrot cat chain chair cherry church circle city
    class cloud coat coin colour comb cook corner country cousin cow crab cradle cream crown cup curtain daisy dance daughter day desk diary dish doctor
    dog doll door dragon dream dress drink driver drop drum duck eagle ear egg engine eye face fairy family farm farmer father feather ferry field finger fire
    flag floor flower fly forest fork fountain fox friend frog fruit game garden gate ghost giant gift girl glass glove goat grape guitar gun hammer hand
    hat hen hill hole home horse hospital hotel hour house idea insect island jacket jar jelly jewel judge jug jungle key king kitchen kite lady ladder lake
    lamp leg lemon letter library light lily lion lip lock lorry lunch machine map market mask match meal melon minute mirror monkey month moon
    mother motor mountain mouth museum nail name neck needle nest net night nose number nurse nut ocean office onion orange oven owl page
    painter palace pan paper parent park parrot party path peach pear pen pencil pepper piano picture pie pig pillow pilot pin pipe plane planet plant
    plate pocket poem pond pony pool poppy potion present prince prize pumpkin puppet puppy queen question rabbit radio ribbon river road robot rock
    rocket roof room rope rose ruler saddle sailor salad sandwich school seed shadow shark ship shirt shoe shop shoulder sister skirt sky
    snake soldier song spider spoon squirrel stable star station stone stool storm story straw street string student suit summer sun swan
    sweater table tail teacher tent test thumb ticket tiger toe tongue towel tower town toy tractor train tray tree truck trumpet tulip tunnel turtle
    uncle valley van vase village violin visitor voice wagon waiter walk wall watch water wave whale wheel whistle window wing winter witch
    word worker worm writer yard year zebra
    """.split()
)
ADJECTIVES = "red blue green yellow white black big small old new happy sad fast slow hot cold dark light long short wet dry soft hard".split()
