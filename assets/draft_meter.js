// Puts the number of tokens beside each label of the draft room. The counts come as {field: words}.

const sheet = document.getElementById("draft-counts") ?? document.head.appendChild(
  Object.assign(document.createElement("style"), {id: "draft-counts"}));
const show = () => {
  sheet.textContent = Object.entries(props.counts ?? {}).map(([field, words]) =>
    `#draft-${field} :is([data-testid="block-info"], .draft-list-title)::after { content: ${JSON.stringify(words)}; }`).join("\n");
};
show();
watch("counts", show);
