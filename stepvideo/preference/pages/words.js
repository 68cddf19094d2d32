// What the pages say, in Chinese and English. Static elements name their words: data-word (text), data-label (ARIA).

const WORDS = {
  zh: {
    token: "本研究给你的口令", enter: "进入", tokenKept: "口令只保存在本标签页，关闭后即清除。",
    wrong: "口令不对，或已过期。", silent: "服务器没有应答。",
    guide: "说明", begin: "开始", prompt: "提示词", practice: "练习", continue: "继续", close: "关闭", cancel: "取消",
    undo: "撤销", skip: "跳过", submit: "提交", thanks: "全部完成，谢谢！",
    mayClose: "答案都已保存，可以关闭本页。", ended: "你完成了 {done} 题，跳过 {skipped} 题。", endedPlain: "没有更多题目了。",
    progress: "进度", count: "第 {number} / {total} 题", eta: "约剩 {time}",
    minutes: "{n} 分钟", hours: "{n} 小时", underMinute: "不到 1 分钟",
    practiceFirst: "先做 {n} 道练习题，答完会告诉你对错，不计入结果。",
    left: "左", right: "右", only: "视频", seenPart: "已看 {percent} %", seenAll: "已看完",
    playback: "播放控制", play: "播放", pause: "暂停", back: "上一帧", forward: "下一帧", replay: "从头播放", position: "帧位置",
    loop: "循环", slower: "减速", faster: "加速", speed: "速度", flip: "原位切换", flipTip: "在同一位置切换左右", side: "并排", sync: "最大相差 {n} 帧",
    choiceLeft: "左边更好", choiceRight: "右边更好", choiceTie: "相当", choiceBoth: "都很差", choices: "哪一段更好",
    watchBoth: "请先以不高于 1 倍的速度把两段都看完。", watchOne: "请先以不高于 1 倍的速度把视频看完。",
    missing: "还差：{names}", ready: "可以作答了。", saving: "正在保存……", loading: "正在载入……", undone: "已撤销，请重新作答。",
    lost: "连接中断，将在 {seconds} 秒后重试（第 {attempt} 次）。", lostVote: "连接中断。你的答案已留在本标签页，将在 {seconds} 秒后重发（第 {attempt} 次），不会重复计票。",
    broken: "视频无法播放：{why}。可以刷新重试，或跳过。", nothingToUndo: "没有可撤销的答案。",
    already: "这道题已经作答（也许在另一个窗口），接着做下一题。", refused: "服务器没有接受：{why}",
    skipWhy: "为什么跳过？", skipMore: "补充说明（可不填）",
    reasonBroken: "视频无法播放或有损坏", reasonPrompt: "看不懂提示词", reasonContent: "内容令人不适", reasonOther: "其他原因",
    right_answer: "正确。", wrong_answer: "与参考答案不同，参考答案是：{expected}。", keys: "快捷键",
    keyPlay: "播放或暂停", keyFrame: "前后一帧（按住 Shift 为 10 帧）", keyEnds: "第一帧、最后一帧", keySpeed: "减速、加速",
    keyReplay: "从头播放", keyLoop: "循环", keyFlip: "在同一位置切换左右；V 回到并排", keyUndo: "撤销上一个答案", keySkip: "跳过并说明原因", keyHelp: "本说明",
    keyScores: "为当前维度打分", keyNext: "当前维度移到上、下一项", keySubmit: "提交（文字框内用 Ctrl + Enter）",
    admin: "研究进度", adminToken: "管理员口令", refresh: "刷新", closed: "已结束", open: "进行中", updated: "更新于 {time}",
    blind: "研究结束前，这里不显示任何模型。结束研究用命令 stepvideo study close。", votes: "答案", items: "已完成题目", agreement: "一致性", noAgreement: "还不能计算",
    question: "问题", raw: "原始一致率", annotators: "标注员", noAnnotators: "还没有标注员。", name: "代号", done: "完成", skipped: "跳过",
    dwell: "每题用时（中位数）", leftShare: "选左", tieShare: "判平", verdict: "判定", seconds: "{n} 秒", closeStudy: "结束研究", simulated: "模拟标注员，并非人的结果",
    closeAsk: "结束后不再接受任何答案，也不能重新开始。请输入 close 以确认：",
  },
  en: {
    token: "The token you were given for this study", enter: "Enter", tokenKept: "Kept in this tab until it is closed.",
    wrong: "This token is not valid, or has expired.", silent: "The server does not answer.",
    guide: "Guide", begin: "Begin", prompt: "Prompt", practice: "Practice", continue: "Continue", close: "Close", cancel: "Cancel",
    undo: "Undo", skip: "Skip", submit: "Submit", thanks: "All done, thank you!",
    mayClose: "Every answer is saved; you may close this page.", ended: "You answered {done} and skipped {skipped}.", endedPlain: "There is nothing more to judge.",
    progress: "Progress", count: "{number} of {total}", eta: "about {time} left",
    minutes: "{n} min", hours: "{n} h", underMinute: "a minute",
    practiceFirst: "It begins with {n} for practice: you are told what was expected, and they do not count.",
    left: "Left", right: "Right", only: "Video", seenPart: "{percent} % seen", seenAll: "Seen",
    playback: "Playback", play: "Play", pause: "Pause", back: "Previous frame", forward: "Next frame", replay: "Play from the start", position: "Frame",
    loop: "Loop", slower: "Slower", faster: "Faster", speed: "Speed", flip: "Flip", flipTip: "Left and right on the same spot", side: "Side by side", sync: "apart at most: {n}",
    choiceLeft: "Left is better", choiceRight: "Right is better", choiceTie: "Tie", choiceBoth: "Both bad", choices: "Which is better",
    watchBoth: "First watch both to the end, at 1× or slower.", watchOne: "First watch it to the end, at 1× or slower.",
    missing: "Still to answer: {names}", ready: "Ready for your answer.", saving: "Saving …", loading: "Loading …", undone: "Undone: answer it again.",
    lost: "The connection broke. Trying again in {seconds} s (try {attempt}).", lostVote: "The connection broke. Your answer is kept in this tab and sent again in {seconds} s (try {attempt}); it will count once.",
    broken: "The video does not play: {why}. Reload the page, or skip it.", nothingToUndo: "There is nothing to undo.",
    already: "This one was answered already, perhaps in another window. Here is the next.", refused: "The server did not take it: {why}",
    skipWhy: "Why skip it?", skipMore: "More about it (optional)",
    reasonBroken: "A video does not play or is broken", reasonPrompt: "The prompt cannot be understood", reasonContent: "The content is disturbing", reasonOther: "Another reason",
    right_answer: "That is right.", wrong_answer: "Not what was expected, which is: {expected}.", keys: "Keys",
    keyPlay: "play or pause", keyFrame: "one frame back, forward (with Shift 10)", keyEnds: "first, last frame", keySpeed: "slower, faster",
    keyReplay: "play from the start", keyLoop: "loop", keyFlip: "flip left and right on one spot; V is side by side again", keyUndo: "undo the last answer", keySkip: "skip, with a reason", keyHelp: "this guide",
    keyScores: "score on the current scale", keyNext: "previous, next scale", keySubmit: "submit (in a text box Ctrl + Enter)",
    admin: "Progress of the study", adminToken: "The study's admin token", refresh: "Refresh", closed: "Closed", open: "Open", updated: "as of {time}",
    blind: "No model is named here before the end, which is: stepvideo study close", votes: "Answers", items: "Items complete", agreement: "Agreement", noAgreement: "not yet known",
    question: "Question", raw: "Raw", annotators: "Annotators", noAnnotators: "No annotators yet.", name: "Annotator", done: "Done", skipped: "Skipped",
    dwell: "Time per item (median)", leftShare: "Chose left", tieShare: "Chose tie", verdict: "Verdict", seconds: "{n} s", closeStudy: "Close the study", simulated: "simulated annotators, no result about people",
    closeAsk: "No more answers will be taken, and it cannot be opened again. Type close to confirm:",
  },
};

const KEPT = "stepvideo-language";
export const NAMES = { zh: "中文", en: "English" };
export let language = localStorage.getItem(KEPT) || (navigator.language.startsWith("zh") ? "zh" : "en");

/** The words of `key`, with {name} replaced by values.name. */
export const t = (key, values = {}) => WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);

/** A text given in several languages: in this one, else in whichever there is. */
export const local = texts => texts?.[language] || texts?.en || texts?.zh || "";

export function translate(root = document) {
  for (const e of root.querySelectorAll("[data-word]")) e.textContent = t(e.dataset.word);
  for (const e of root.querySelectorAll("[data-label]")) e.ariaLabel = e.title = t(e.dataset.label);
}

/** Buttons that choose a language of `offered`; `changed` is called after each choice. */
export function languageSwitch(box, offered, changed) {
  if (!offered.includes(language)) language = offered[0];
  const choose = name => {
    language = name;
    localStorage.setItem(KEPT, name);
    for (const b of box.children) b.ariaPressed = String(b.lang === name);
    document.documentElement.lang = name === "zh" ? "zh-CN" : name;
    Object.assign(words, { silent: t("silent"), wrong: t("wrong") });
    translate();
    changed();
  };
  box.replaceChildren(...offered.map(name => element("button", { type: "button", lang: name, textContent: NAMES[name], onclick: () => choose(name) })));
  choose(language);
}
